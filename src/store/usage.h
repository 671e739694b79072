// What keys spend: reserved before a run, settled after it, a row a day, a month and in all. Relies on database.h, key.h.
//
// Reservations and charges go to the day and month in which the request came, whenever it ends.
#ifndef LIMN_STORE_USAGE_H
#define LIMN_STORE_USAGE_H

#include "store/database.h"
#include "store/key.h"

#include <jansson.h> // defines: json_t

#define DAY_MICROS INT64_C(86400000000)

enum usage_period { USAGE_DAY, USAGE_MONTH, USAGE_TOTAL };

// The first microsecond of the day or month (UTC) that holds [time], 0 for USAGE_TOTAL; and of the one after it (0: never).
int64_t usage_start(enum usage_period period, int64_t time);
int64_t usage_next(enum usage_period period, int64_t time);

enum usage_verdict { USAGE_FITS, USAGE_NO_MONEY, USAGE_NO_IMAGES };

// Holds [micros] and [images] against what the key has left, and reserves them when both fit. Otherwise nothing is changed,
// [message] says for the caller which limit it was, and *retry_seconds when it begins anew (0: never).
bool usage_reserve(struct database *database, const struct key_info *key, int64_t now, int64_t micros,
                   int64_t images, enum usage_verdict *verdict, char message[256], double *retry_seconds,
                   struct error *error);

// Gives back what was reserved at [time] and charges what it came to.
bool usage_settle(struct database *database, const char *key_id, int64_t time, int64_t reserved_micros,
                  int64_t reserved_images, int64_t micros, int64_t images, struct error *error);

struct usage_row {
    int64_t spent, reserved, images, images_reserved;
};
bool usage_read(struct database *database, const char *key_id, int64_t now, struct usage_row rows[3],
                struct error *error);

#endif
