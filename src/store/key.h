// API keys: what a key may do, how its text looks, and how it is recognised without the database. Relies on base,
// libsodium.
//
// A key's text is "limn_<id>.<secret>": the id is 12 of [a-z2-7], the secret 32 random bytes in base64url (43 characters).
// The text is shown once, when the key is made; what is kept is the id and the BLAKE2b-256 hash of the secret. A secret of
// 256 random bits needs no slow hash: it cannot be guessed, so nothing is won by making each guess dear.
#ifndef LIMN_STORE_KEY_H
#define LIMN_STORE_KEY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEY_ID_MOST      16  // all with the 0 byte
#define KEY_TEXT_MOST    72  // "limn_" + 12 + "." + 43
#define KEY_NAME_MOST    128 //
#define KEY_MODELS_MOST  1024
#define KEY_PROJECT_MOST 64
#define KEY_HASH_BYTES   32

// Requests of a higher priority go first; 0 is the usual one.
enum { KEY_PRIORITY_LOW = -1, KEY_PRIORITY_HIGH = 1 };

// "low", "normal" or "high"; and back: false for any other text.
const char *key_priority_name(int priority);
bool key_priority_from_name(const char *name, int *priority);

// What a key is and may do. Limits are 0 where there is none. Money is in micro-dollars (1 USD = 1,000,000). Times are
// microseconds since 1970 UTC.
struct key_info {
    char id[KEY_ID_MOST];
    char name[KEY_NAME_MOST];       // unique among the keys that are not revoked
    char project[KEY_PROJECT_MOST]; // the project that requests belong to unless they name another
    char projects[KEY_MODELS_MOST]; // others that the key may name, separated by commas; "*": all; "": none
    char models[KEY_MODELS_MOST];   // names or globs separated by commas; "": all
    char last_four[5];              // of the secret
    bool admin;                     // may use the admin endpoints
    int priority;                   // of its requests, KEY_PRIORITY_LOW to _HIGH
    int64_t budget_day_micros;      // a day begins at midnight UTC, a month on its first day
    int64_t budget_month_micros;
    int64_t budget_total_micros;
    int64_t requests_per_minute;
    int64_t images_per_day;
    int64_t created_at;
    int64_t expires_at; // 0: never
    int64_t revoked_at; // 0: not
};

// Whether the key may use the model: some entry of models is its name or a glob that matches it.
bool key_allows_model(const struct key_info *key, const char *model);

// Whether the key may use the project: its own, one of projects, or any for "*" and for admin keys.
bool key_allows_project(const struct key_info *key, const char *project);

// Fills [text] with a fresh key, [id] with its id, [hash] with the hash of its secret.
bool key_make(char text[KEY_TEXT_MOST], char id[KEY_ID_MOST], char last_four[5], uint8_t hash[KEY_HASH_BYTES],
              struct error *error);

// Takes a text apart. False for anything that is not the form of a key.
bool key_parse(const char *text, char id[KEY_ID_MOST], uint8_t hash[KEY_HASH_BYTES]);

// Holds a fresh key's fields against their limits: the name is 1 to 127 printable characters, numbers are not negative,
// lists hold no empty entry. The error's field is the option at fault.
bool key_check_fields(const struct key_info *key, struct error *error);

// ---------------------------------------------------------------------------------------------------- recognising one

// The keys of a database in memory, read by the event loop. Thread-safe: keys_replace swaps a whole list in.
struct keys;

struct key_record {
    struct key_info info;
    uint8_t hash[KEY_HASH_BYTES];
};

struct keys *keys_open(struct error *error);
void keys_close(struct keys *keys); // NULL is fine

// Takes [records] (from malloc, [count] of them; NULL for none) over. What keys that stay have used of their rate is kept.
void keys_replace(struct keys *keys, struct key_record *records, size_t count);

enum key_verdict {
    KEY_OK,
    KEY_UNKNOWN, // not the form of a key, no such id, or another secret: nothing tells which
    KEY_REVOKED, // to be answered as KEY_UNKNOWN is; told apart for the log
    KEY_EXPIRED,
};

// Recognises the text of an Authorization header's bearer token. The time taken does not depend on how much of a wrong
// secret is right, nor on whether the id exists. Fills [info] (unless NULL) for every verdict but KEY_UNKNOWN.
// [now]: microseconds since 1970 UTC.
enum key_verdict keys_check(struct keys *keys, const char *text, int64_t now, struct key_info *info);

// Whether any key was ever made, revoked ones included: from then on no request goes without one.
bool keys_any(struct keys *keys);

// Counts one request against the key's requests a minute: a bucket of that many, refilled evenly. False when it is empty;
// then *wait is the seconds until there is room for one. [now]: monotonic seconds.
bool keys_take_request(struct keys *keys, const char *id, double now, double *wait);

#endif
