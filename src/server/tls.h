// The server's side of TLS: its certificate, which is read again when its files change, and sessions. Relies on base, GnuTLS.
#ifndef LIMN_SERVER_TLS_H
#define LIMN_SERVER_TLS_H

#include "base/error.h"
#include "base/log.h"

#include <gnutls/gnutls.h>

struct tls;
struct tls_certificate; // one that was read; sessions hold theirs

// Reads a certificate (with those between it and the root) and its key, PEM files both. Errors name the files and say what is
// wrong with them.
struct tls *tls_open(const char *certificate, const char *key, struct error *error);
void tls_close(struct tls *tls); // NULL is fine; no session may be left

// Looks whether the files have changed and reads them again: sessions from now on have what they hold. A pair that cannot be used,
// or is only half written as yet, is logged once, and the one before stays.
void tls_refresh(struct tls *tls, const struct log *log);

// A session on a connected non-blocking socket, which stays the caller's. *held is given back with tls_release when the session was
// closed (gnutls_deinit). NULL: no memory.
gnutls_session_t tls_session(struct tls *tls, int socket, struct tls_certificate **held);
void tls_release(struct tls_certificate *held); // NULL is fine

#endif
