// The two hashes by which a model hub names files, computed over data that comes in pieces: SHA-256 of large files, the SHA-1 of
// a git blob for small ones. Relies on libsodium.
//
//     struct digest digest;
//     digest_begin(&digest, DIGEST_SHA256, size);
//     digest_add(&digest, bytes, count);            // as often as wanted, [size] bytes together
//     char text[DIGEST_TEXT];
//     digest_end(&digest, text);                    // "e3b0c442..."
#ifndef LIMN_WEIGHTS_DIGEST_H
#define LIMN_WEIGHTS_DIGEST_H

#include <sodium.h> // defines: crypto_hash_sha256_state
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum digest_kind {
    DIGEST_SHA256,   // 64 hexadecimal digits: the content
    DIGEST_GIT_BLOB, // 40: SHA-1 of "blob SIZE", a 0 byte and the content, git's name of a file
};

enum { DIGEST_TEXT = 65 }; // bytes of the longest as text, with the 0

struct digest {
    enum digest_kind kind;
    crypto_hash_sha256_state sha256;
    struct {
        uint32_t state[5];
        uint8_t block[64];
        uint64_t bytes; // so far
    } sha1;
};

// [size]: bytes of the whole content, which the git kind hashes first.
void digest_begin(struct digest *digest, enum digest_kind kind, uint64_t size);
void digest_add(struct digest *digest, const void *bytes, size_t count);
void digest_end(struct digest *digest, char text[DIGEST_TEXT]); // lower case; digest_begin starts anew

// Whether [text] is a hash of that kind: exactly as many lower-case hexadecimal digits.
bool digest_is(enum digest_kind kind, const char *text);

#endif
