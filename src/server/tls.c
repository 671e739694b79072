// See tls.h.
#include "server/tls.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PEM_MOST   (1u << 20)
#define PRIORITIES "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct tls_certificate {
    gnutls_certificate_credentials_t credentials;
    int holders;
};

// What tells one state of a file from the next; a link that is pointed elsewhere is another file.
struct mark {
    dev_t device;
    ino_t number;
    off_t size;
    struct timespec modified, changed;
};

struct tls {
    char *certificate_path, *key_path;
    struct mark certificate_mark, key_mark; // of what was last read, usable or not
    gnutls_priority_t priorities;
    struct tls_certificate *certificate;
};

static struct mark mark_of(const char *path) {
    struct stat found;
    if (stat(path, &found)) return (struct mark){0};
    return (struct mark){found.st_dev, found.st_ino, found.st_size, found.st_mtim, found.st_ctim};
}

static bool is_time(struct timespec a, struct timespec b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool is_mark(const struct mark *a, const struct mark *b) {
    return a->device == b->device && a->number == b->number && a->size == b->size &&
           is_time(a->modified, b->modified) && is_time(a->changed, b->changed);
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for a certificate");
}

static bool use(struct tls_certificate *made, const struct tls *tls, char *certificate,
                size_t certificate_size, char *key, size_t key_size, struct error *error) {
    gnutls_datum_t first = {(unsigned char *)certificate, (unsigned)certificate_size},
                   second = {(unsigned char *)key, (unsigned)key_size};
    if (gnutls_certificate_allocate_credentials(&made->credentials) < 0) return no_memory(error);
    int bad = gnutls_certificate_set_x509_key_mem2(made->credentials, &first, &second, GNUTLS_X509_FMT_PEM,
                                                   NULL, 0);
    return bad >= 0 ||
           error_set(error, ERROR_INPUT, "%s and %s: expected a certificate and its key, as PEM: %s",
                     tls->certificate_path, tls->key_path, gnutls_strerror(bad));
}

static struct tls_certificate *read_pair(const struct tls *tls, struct error *error) {
    struct tls_certificate *made = calloc(1, sizeof *made);
    char *certificate = NULL, *key = NULL;
    size_t certificate_size = 0, key_size = 0;
    if (!made) {
        no_memory(error);
        return NULL;
    }
    made->holders = 1;
    bool good = file_read(tls->certificate_path, PEM_MOST, &certificate, &certificate_size, error) &&
                file_read(tls->key_path, PEM_MOST, &key, &key_size, error) &&
                use(made, tls, certificate, certificate_size, key, key_size, error);
    if (key) explicit_bzero(key, key_size);
    free(certificate);
    free(key);
    if (good) return made;
    tls_release(made);
    return NULL;
}

static void look(struct tls *tls) {
    tls->certificate_mark = mark_of(tls->certificate_path);
    tls->key_mark = mark_of(tls->key_path);
}

struct tls *tls_open(const char *certificate, const char *key, struct error *error) {
    struct tls *tls = calloc(1, sizeof *tls);
    if (!tls) {
        no_memory(error);
        return NULL;
    }
    tls->certificate_path = strdup(certificate);
    tls->key_path = strdup(key);
    bool good = (tls->certificate_path && tls->key_path) || no_memory(error);
    if (good && gnutls_priority_init(&tls->priorities, PRIORITIES, NULL) < 0)
        good = error_set(error, ERROR_UNSUPPORTED, "this system's GnuTLS does not speak TLS 1.2 and 1.3");
    if (good) {
        look(tls);
        tls->certificate = read_pair(tls, error);
        good = tls->certificate != NULL;
    }
    if (good) return tls;
    tls_close(tls);
    return NULL;
}

void tls_close(struct tls *tls) {
    if (!tls) return;
    tls_release(tls->certificate);
    if (tls->priorities) gnutls_priority_deinit(tls->priorities);
    free(tls->certificate_path);
    free(tls->key_path);
    free(tls);
}

void tls_refresh(struct tls *tls, const struct log *log) {
    struct mark certificate = tls->certificate_mark, key = tls->key_mark;
    struct error error = {0};
    look(tls); // before they are read: what is written meanwhile is seen the next time
    if (is_mark(&certificate, &tls->certificate_mark) && is_mark(&key, &tls->key_mark)) return;
    struct tls_certificate *made = read_pair(tls, &error);
    if (!made) {
        log_warning(log, "the certificate has changed and is not taken, the one before stays: %s",
                    error.message);
        return;
    }
    tls_release(tls->certificate);
    tls->certificate = made;
    log_info(log, "the certificate has changed: %s serves new connections", tls->certificate_path);
}

gnutls_session_t tls_session(struct tls *tls, int socket, struct tls_certificate **held) {
    gnutls_session_t session = NULL;
    const gnutls_datum_t protocol = {(unsigned char *)"http/1.1", 8};
    if (gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) return NULL;
    if (gnutls_priority_set(session, tls->priorities) < 0 ||
        gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->certificate->credentials) < 0 ||
        gnutls_alpn_set_protocols(session, &protocol, 1, 0) < 0) {
        gnutls_deinit(session);
        return NULL;
    }
    gnutls_transport_set_int(session, socket);
    tls->certificate->holders++;
    *held = tls->certificate;
    return session;
}

void tls_release(struct tls_certificate *held) {
    if (!held || --held->holders > 0) return;
    if (held->credentials) gnutls_certificate_free_credentials(held->credentials);
    free(held);
}
