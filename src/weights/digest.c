// See digest.h. SHA-1 is written here (FIPS 180-4, section 6.1) because git names files by it; nothing relies on its strength:
// small files come over TLS, large ones are named by SHA-256.
#include "weights/digest.h"

#include <stdio.h>
#include <string.h>

// --------------------------------------------------------------------------------------------------------------- SHA-1

static uint32_t turned(uint32_t value, int bits) {
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const uint8_t block[64]) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = turned(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) {
            f = (b & c) | (~b & d);
            k = 0x5a827999;
        } else if (i < 40) {
            f = b ^ c ^ d;
            k = 0x6ed9eba1;
        } else if (i < 60) {
            f = (b & c) | (b & d) | (c & d);
            k = 0x8f1bbcdc;
        } else {
            f = b ^ c ^ d;
            k = 0xca62c1d6;
        }
        uint32_t next = turned(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = turned(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

static void sha1_begin(struct digest *digest) {
    static const uint32_t start[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(digest->sha1.state, start, sizeof start);
    digest->sha1.bytes = 0;
}

static void sha1_add(struct digest *digest, const uint8_t *bytes, size_t count) {
    while (count > 0) {
        size_t at = digest->sha1.bytes % 64, take = 64 - at < count ? 64 - at : count;
        memcpy(digest->sha1.block + at, bytes, take);
        digest->sha1.bytes += take;
        bytes += take;
        count -= take;
        if (at + take == 64) sha1_block(digest->sha1.state, digest->sha1.block);
    }
}

static void sha1_end(struct digest *digest, uint8_t hash[20]) {
    static const uint8_t padding[64] = {0x80};
    uint64_t bits = digest->sha1.bytes * 8;
    size_t at = digest->sha1.bytes % 64;
    sha1_add(digest, padding, at < 56 ? 56 - at : 120 - at);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha1_add(digest, length, 8);
    for (int i = 0; i < 20; i++) hash[i] = (uint8_t)(digest->sha1.state[i / 4] >> (24 - 8 * (i % 4)));
}

// ---------------------------------------------------------------------------------------------------------------- both

void digest_begin(struct digest *digest, enum digest_kind kind, uint64_t size) {
    digest->kind = kind;
    if (kind == DIGEST_SHA256) {
        crypto_hash_sha256_init(&digest->sha256);
        return;
    }
    char header[32];
    int length = snprintf(header, sizeof header, "blob %llu", (unsigned long long)size);
    sha1_begin(digest);
    sha1_add(digest, (const uint8_t *)header, (size_t)length + 1); // with its 0
}

void digest_add(struct digest *digest, const void *bytes, size_t count) {
    if (digest->kind == DIGEST_SHA256)
        crypto_hash_sha256_update(&digest->sha256, bytes, count);
    else
        sha1_add(digest, bytes, count);
}

void digest_end(struct digest *digest, char text[DIGEST_TEXT]) {
    uint8_t hash[crypto_hash_sha256_BYTES];
    size_t bytes = digest->kind == DIGEST_SHA256 ? crypto_hash_sha256_BYTES : 20;
    if (digest->kind == DIGEST_SHA256)
        crypto_hash_sha256_final(&digest->sha256, hash);
    else
        sha1_end(digest, hash);
    for (size_t i = 0; i < bytes; i++) snprintf(text + 2 * i, 3, "%02x", hash[i]);
}

bool digest_is(enum digest_kind kind, const char *text) {
    size_t length = kind == DIGEST_SHA256 ? 64 : 40;
    return strlen(text) == length && strspn(text, "0123456789abcdef") == length;
}
