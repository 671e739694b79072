// Hashes a file while it is written: a thread that follows the writer. Relies on digest.h.
#ifndef LIMN_WEIGHTS_DOWNLOAD_HASH_H
#define LIMN_WEIGHTS_DOWNLOAD_HASH_H

#include "base/error.h"
#include "weights/digest.h"

#include <stdint.h>

struct follower; // one file's

// Follows the file [descriptor] (borrowed, readable) of [size] bytes, of which [written] are there. [wake] is called on the
// thread when the hash is known.
struct follower *follower_start(int descriptor, enum digest_kind kind, int64_t size, int64_t written,
                                void (*wake)(void *user), void *user, struct error *error);
// So much is in the file now.
void follower_written(struct follower *follower, int64_t written);
// Whether all [size] bytes are hashed and on the disk.
bool follower_finished(struct follower *follower);
// Ends the thread, whether it is finished or not. Where it is, *hash is the result; false with an error where the file could not
// be read or brought to the disk.
bool follower_end(struct follower *follower, char hash[DIGEST_TEXT], struct error *error);

#endif
