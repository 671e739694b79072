// See address.h.
#include "server/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static void set_v4(struct address *address, const void *four) {
    memcpy(address->bytes, MAPPED, sizeof MAPPED);
    memcpy(address->bytes + 12, four, 4);
}

static bool is_v4(const struct address *address) {
    return !memcmp(address->bytes, MAPPED, sizeof MAPPED);
}

bool address_read(const char *text, struct address *address) {
    char name[64];
    const char *from = text, *end = NULL;
    if (*text == '[') {
        from = text + 1;
        end = strchr(from, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
    } else if (strchr(text, ':') && strchr(text, ':') == strrchr(text, ':')) {
        end = strchr(text, ':'); // "192.0.2.7:80"; an IPv6 address has more colons
    } else {
        end = text + strlen(text);
    }
    if ((size_t)(end - from) >= sizeof name) return false;
    snprintf(name, sizeof name, "%.*s", (int)(end - from), from);
    struct in_addr four;
    if (inet_pton(AF_INET, name, &four) == 1) {
        set_v4(address, &four);
        return true;
    }
    return inet_pton(AF_INET6, name, address->bytes) == 1;
}

bool address_of_socket(const struct sockaddr *from, struct address *address) {
    if (from && from->sa_family == AF_INET) {
        set_v4(address, &((const struct sockaddr_in *)(const void *)from)->sin_addr);
        return true;
    }
    if (from && from->sa_family == AF_INET6) {
        memcpy(address->bytes, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, 16);
        return true;
    }
    memset(address, 0, sizeof *address);
    return false;
}

void address_write(const struct address *address, char text[ADDRESS_TEXT_MOST]) {
    const char *good = is_v4(address) ? inet_ntop(AF_INET, address->bytes + 12, text, ADDRESS_TEXT_MOST)
                                      : inet_ntop(AF_INET6, address->bytes, text, ADDRESS_TEXT_MOST);
    if (!good) *text = 0;
}

bool address_is_loopback(const struct address *address) {
    static const uint8_t one[16] = {[15] = 1};
    return is_v4(address) ? address->bytes[12] == 127 : !memcmp(address->bytes, one, 16);
}

bool network_read(const char *text, struct network *network, struct error *error) {
    char name[64];
    size_t length = strcspn(text, "/");
    bool good = length < sizeof name;
    snprintf(name, sizeof name, "%.*s", (int)length, text);
    good = good && !strchr(name, '[') && address_read(name, &network->address);
    int most = good && is_v4(&network->address) ? 32 : 128;
    network->bits = most;
    if (good && text[length] == '/') {
        char *end;
        long bits = strtol(text + length + 1, &end, 10);
        good = end > text + length + 1 && !*end && bits >= 0 && bits <= most;
        network->bits = (int)bits;
    }
    if (!good)
        return error_set(error, ERROR_INPUT, "\"%.80s\": expected an address or a network, as 10.0.0.0/8",
                         text);
    network->bits += 128 - most;
    return true;
}

static bool is_within(const struct network *network, const struct address *address) {
    int whole = network->bits / 8, rest = network->bits % 8;
    if (memcmp(network->address.bytes, address->bytes, (size_t)whole)) return false;
    uint8_t mask = (uint8_t)(0xff << (8 - rest));
    return rest == 0 || !((network->address.bytes[whole] ^ address->bytes[whole]) & mask);
}

bool network_has(const struct network *networks, int count, const struct address *address) {
    for (int i = 0; i < count; i++)
        if (is_within(&networks[i], address)) return true;
    return false;
}

struct address address_of_client(const struct address *peer, const char *forwarded_for,
                                 const struct network *trusted, int count) {
    struct address client = *peer;
    size_t end = forwarded_for ? strlen(forwarded_for) : 0;
    while (end > 0 && network_has(trusted, count, &client)) {
        size_t from = end;
        while (from > 0 && forwarded_for[from - 1] != ',') from--;
        char name[64];
        const char *at = forwarded_for + from + strspn(forwarded_for + from, " \t");
        size_t length = (size_t)(forwarded_for + end - at);
        while (length > 0 && (at[length - 1] == ' ' || at[length - 1] == '\t')) length--;
        struct address next;
        if (at > forwarded_for + end || length >= sizeof name) break;
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (!address_read(name, &next)) break;
        client = next;
        end = from > 0 ? from - 1 : 0;
    }
    return client;
}
