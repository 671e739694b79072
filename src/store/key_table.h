// Keys in the database: making, revoking. Relies on database.h, key.h.
#ifndef LIMN_STORE_KEY_TABLE_H
#define LIMN_STORE_KEY_TABLE_H

#include "store/database.h"
#include "store/key.h"

// Makes a key with the name, project, lists and limits of [key], whose other fields are filled. [text] is what the owner is
// shown, once. Another key of that name that is not revoked is an error (field "name"). [now]: microseconds since 1970 UTC.
bool key_create(struct database *database, struct key_info *key, int64_t now, char text[KEY_TEXT_MOST],
                struct error *error);

// Revokes the key with the id [which], else the one with that name that is not revoked. [key] is filled with it. Revoking
// twice is fine: *already says so.
bool key_revoke(struct database *database, const char *which, int64_t now, struct key_info *key,
                bool *already, struct error *error);

#endif
