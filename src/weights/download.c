// See download.h.
#include "weights/download.h"

#include "base/clock.h"
#include "weights/download_hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TICK_SECONDS      0.2
#define LOCK_SECONDS      0.5 // between two looks whether another process is done
#define PARALLEL_MOST     16
#define LINE_MOST         400
#define WRONG_BYTES_TRIES 2

// What runs a file, from its lock to its link.
struct download_work {
    struct download_item *item;
    struct run *run;
    int lock, blob; // descriptors, -1: none
    struct follower *follower;
    CURL *curl;
    bool added; // to the multi handle
    struct curl_slist *lines;
    struct hub_headers headers;
    char *url; // where the request is now; NULL: none runs
    char etag[sizeof(
        ((struct hub_headers *)0)->etag)]; // of the content, from the last answer that gave some of it
    int redirects;
    int tries;        // since the last byte
    int wrong;        // how often the content was not what it should be
    bool no_range;    // this server cannot continue
    bool accepted;    // the answer's head was looked at
    int64_t skip;     // bytes at the front of this answer that are here already
    double resume_at; // PAUSED: when to go on
    char details[CURL_ERROR_SIZE];
    struct error error; // what on_body found
};

struct run {
    struct download *download;
    CURLM *multi;
    int active; // items with work
    double lock_look;
};

void download_init(struct download *download, const struct hub_client *client) {
    *download = (struct download){.client = client, .parallel = 6};
}

bool download_add(struct download *download, const struct hub_snapshot *snapshot, const char *name,
                  const char *commit, const struct hub_file *file, struct error *error) {
    if (download->count == download->capacity) {
        int capacity = download->capacity ? 2 * download->capacity : 32;
        struct download_item *items = realloc(download->items, (size_t)capacity * sizeof *items);
        if (!items) return error_set(error, ERROR_MEMORY, "not enough memory for the list of files");
        download->items = items;
        download->capacity = capacity;
    }
    struct download_item item = {.snapshot = snapshot, .file = file, .name = name};
    item.url = hub_file_url(download->client->place, name, commit, file->path);
    if (!item.url) return error_set(error, ERROR_MEMORY, "not enough memory for the list of files");
    item.here = item.found =
        hub_snapshot_has_blob(snapshot, file) ? file->size : hub_snapshot_begun(snapshot, file);
    download->items[download->count++] = item;
    return true;
}

void download_free(struct download *download) {
    for (int i = 0; i < download->count; i++) free(download->items[i].url);
    free(download->items);
    *download = (struct download){0};
}

static void set_state(struct run *run, struct download_item *item, enum download_state state) {
    if (item->state == state) return;
    item->state = state;
    if (run->download->changed) run->download->changed(run->download->user, run->download, item);
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a download");
}

// ----------------------------------------------------------------------------------------------------- what comes in

static size_t on_header(char *line, size_t one, size_t size, void *context) {
    struct download_work *work = context;
    hub_header_line(&work->headers, line, size, clock_unix_micros() / 1000000);
    return size;
}

// The content is written behind what is here.
static bool store(struct download_work *work, const char *data, size_t size) {
    struct download_item *item = work->item;
    if ((int64_t)size > item->file->size - item->here)
        return error_set(&work->error, ERROR_INPUT, "more bytes came than the hub's list says");
    for (size_t at = 0; at < size;) {
        ssize_t written = pwrite(work->blob, data + at, size - at, item->here);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            struct statvfs disk;
            bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
            int cause = errno;
            char room[60] = "";
            if (full && fstatvfs(work->blob, &disk) == 0)
                snprintf(room, sizeof room, ", %.1f MB free",
                         (double)disk.f_bavail * (double)disk.f_frsize / 1e6);
            return error_set(&work->error, ERROR_IO, "cannot be written: %s%s; what has come stays in %.200s",
                             strerror(cause), room, item->snapshot->repository);
        }
        at += (size_t)written;
        item->here += written;
    }
    if (size > 0) work->tries = 0;
    follower_written(work->follower, item->here);
    return true;
}

// The first bytes of an answer: do they continue what is here?
static bool accept_answer(struct download_work *work, long status) {
    const struct download_item *item = work->item;
    work->accepted = true;
    work->skip = status == 200 ? item->here : 0;
    if (status == 206 && (work->headers.range_first != item->here ||
                          (work->headers.range_size >= 0 && work->headers.range_size != item->file->size))) {
        work->no_range = true;
        return error_set(&work->error, ERROR_UNAVAILABLE, "another part of the file came than was asked for");
    }
    snprintf(work->etag, sizeof work->etag, "%s", work->headers.etag);
    return true;
}

static size_t on_body(char *data, size_t one, size_t size, void *context) {
    struct download_work *work = context;
    long status = 0;
    size_t all = size;
    curl_easy_getinfo(work->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return all; // the text of a redirect or a refusal
    if (!work->accepted && !accept_answer(work, status)) return 0;
    if (work->skip > 0) {
        size_t skipped = work->skip < (int64_t)size ? (size_t)work->skip : size;
        work->skip -= (int64_t)skipped;
        data += skipped;
        size -= skipped;
    }
    return store(work, data, size) ? all : 0;
}

// ------------------------------------------------------------------------------------------------------------- requests

static void on_hashed(void *user) {
    curl_multi_wakeup(((struct run *)user)->multi);
}

static bool add_line(struct curl_slist **lines, const char *line) {
    struct curl_slist *longer = curl_slist_append(*lines, line);
    if (longer) *lines = longer;
    return longer != NULL;
}

// Asks for the rest of the file at work->url.
static bool send_request(struct download_work *work, struct error *error) {
    const struct download_item *item = work->item;
    char line[LINE_MOST];
    bool good = true;
    curl_slist_free_all(work->lines);
    work->lines = NULL;
    work->accepted = false;
    work->skip = 0;
    hub_headers_begin(&work->headers);
    curl_easy_reset(work->curl);
    if (item->here > 0 && !work->no_range) {
        snprintf(line, sizeof line, "Range: bytes=%lld-", (long long)item->here);
        good = add_line(&work->lines, line);
        snprintf(line, sizeof line, "If-Range: %s", work->etag);
        if (good && *work->etag) good = add_line(&work->lines, line);
    }
    good =
        good &&
        hub_client_prepare(work->run->download->client, work->curl, work->url, &work->lines, work->details) &&
        curl_easy_setopt(work->curl, CURLOPT_PRIVATE, work) == CURLE_OK &&
        curl_easy_setopt(work->curl, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
        curl_easy_setopt(work->curl, CURLOPT_HEADERDATA, work) == CURLE_OK &&
        curl_easy_setopt(work->curl, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
        curl_easy_setopt(work->curl, CURLOPT_WRITEDATA, work) == CURLE_OK &&
        curl_easy_setopt(work->curl, CURLOPT_BUFFERSIZE, 256l << 10) == CURLE_OK &&
        curl_multi_add_handle(work->run->multi, work->curl) == CURLM_OK;
    work->added = good;
    return good || no_memory(error);
}

// From the hub on: its links to other hosts age.
static bool start_request(struct download_work *work, struct error *error) {
    free(work->url);
    work->url = strdup(work->item->url);
    work->redirects = 0;
    if (!work->url) return no_memory(error);
    set_state(work->run, work->item, DOWNLOAD_RUNNING);
    return send_request(work, error);
}

static bool start_follower(struct download_work *work, struct error *error) {
    const struct hub_file *file = work->item->file;
    work->follower =
        follower_start(work->blob, file->kind, file->size, work->item->here, on_hashed, work->run, error);
    return work->follower != NULL;
}

// ----------------------------------------------------------------------------------------------------- one file's life

static void end_work(struct download_work *work) {
    char hash[DIGEST_TEXT];
    struct error ignored = {0};
    if (!work) return;
    if (work->added) curl_multi_remove_handle(work->run->multi, work->curl);
    curl_easy_cleanup(work->curl);
    curl_slist_free_all(work->lines);
    if (work->follower) follower_end(work->follower, hash, &ignored);
    if (work->blob >= 0) close(work->blob);
    if (work->lock >= 0) close(work->lock);
    work->item->work = NULL;
    work->run->active--;
    free(work->url);
    free(work);
}

// The blob is there: the snapshot gets its link.
static bool finish(struct run *run, struct download_item *item, struct error *error) {
    if (!hub_snapshot_link(item->snapshot, item->file, error)) return false;
    item->here = item->file->size;
    set_state(run, item, DOWNLOAD_DONE);
    return true;
}

// Takes up a file whose lock is held.
static bool begin_locked(struct download_work *work, struct error *error) {
    struct download_item *item = work->item;
    work->blob = hub_snapshot_open(item->snapshot, item->file, error);
    work->curl = curl_easy_init();
    if (work->blob < 0) return false;
    if (!work->curl) return no_memory(error);
    off_t length = lseek(work->blob, 0, SEEK_END);
    if (length > item->file->size) length = ftruncate(work->blob, 0) == 0 ? 0 : -1;
    if (length < 0)
        return error_set(error, ERROR_IO, "its unfinished blob cannot be used: %s", strerror(errno));
    item->here = item->found = length;
    if (!start_follower(work, error)) return false;
    if (item->here < item->file->size) return start_request(work, error);
    set_state(work->run, item, DOWNLOAD_CHECKING);
    return true;
}

// Begins with a file, if nobody else is at it.
static bool begin(struct run *run, struct download_item *item, struct error *error) {
    if (hub_snapshot_has(item->snapshot, item->file)) return finish(run, item, error);
    int lock = hub_snapshot_lock(item->snapshot, item->file, error);
    if (lock == -2) {
        item->here = hub_snapshot_begun(item->snapshot, item->file); // what the other has so far
        set_state(run, item, DOWNLOAD_LOCKED);
        return true;
    }
    if (lock < 0) return false;
    if (hub_snapshot_has_blob(item->snapshot, item->file)) {
        bool good = finish(run, item, error);
        close(lock);
        return good;
    }
    struct download_work *work = calloc(1, sizeof *work);
    if (!work) {
        close(lock);
        return no_memory(error);
    }
    *work = (struct download_work){.item = item, .run = run, .lock = lock, .blob = -1};
    item->work = work;
    run->active++;
    return begin_locked(work, error);
}

// The content was not what it should be: once more from the front.
static bool throw_away(struct download_work *work, const char *what, struct error *error) {
    struct download_item *item = work->item;
    char hash[DIGEST_TEXT];
    struct error ignored = {0};
    if (work->follower) follower_end(work->follower, hash, &ignored);
    work->follower = NULL;
    if (ftruncate(work->blob, 0) != 0)
        return error_set(error, ERROR_IO, "its unfinished blob cannot be emptied: %s", strerror(errno));
    item->here = item->found = 0;
    *work->etag = 0;
    if (++work->wrong == WRONG_BYTES_TRIES)
        return error_set(
            error, ERROR_INPUT,
            "%s, twice: something between here and the hub changes it, or the hub's copy is damaged", what);
    snprintf(item->trouble, sizeof item->trouble, "%s; fetched once more", what);
    set_state(work->run, item, DOWNLOAD_PAUSED);
    return start_follower(work, error) && start_request(work, error);
}

// The hash is known.
static bool judge(struct download_work *work, struct error *error) {
    struct run *run = work->run;
    struct download_item *item = work->item;
    char hash[DIGEST_TEXT];
    bool good = follower_end(work->follower, hash, error);
    work->follower = NULL;
    if (!good) return false;
    if (strcmp(hash, item->file->hash)) return throw_away(work, "its hash is wrong", error);
    good = hub_snapshot_finish(item->snapshot, item->file, error) && finish(run, item, error);
    end_work(work);
    return good;
}

// Pauses before the next try, or gives up.
static bool try_again(struct download_work *work, CURLcode result, long status, struct error *error) {
    const struct hub_client *client = work->run->download->client;
    struct download_item *item = work->item;
    struct error cause = {0};
    bool home = hub_same_origin(work->url, client->place->endpoint);
    // What on_body refused shows as CURLE_WRITE_ERROR.
    bool odd = work->error.kind != ERROR_NONE;
    if (odd) {
        cause = work->error;
        work->error = (struct error){0};
        if (cause.kind == ERROR_INPUT) return throw_away(work, cause.message, error);
    } else if (result == CURLE_OK && (status == 200 || status == 206)) {
        error_set(&cause, ERROR_UNAVAILABLE, "the answer ended after %lld of %lld bytes",
                  (long long)item->here, (long long)item->file->size);
        odd = true;
    } else if (result == CURLE_OK && status == 416) {
        error_set(&cause, ERROR_UNAVAILABLE, "the host cannot continue the file");
        work->no_range = odd = true;
    } else {
        hub_explain(client, work->url, item->name, item->file->path, result, status, &work->headers,
                    work->details, &cause);
    }
    bool passing = odd ? cause.kind == ERROR_UNAVAILABLE : hub_may_retry(result, status, home);
    if (!passing || ++work->tries > client->retries) {
        *error = cause;
        return false;
    }
    snprintf(item->trouble, sizeof item->trouble, "%.199s", cause.message);
    work->resume_at = clock_seconds() + hub_retry_seconds(work->tries, work->headers.retry_after);
    set_state(work->run, item, DOWNLOAD_PAUSED);
    return true;
}

// A request is over.
static bool answered(struct download_work *work, CURLcode result, struct error *error) {
    struct run *run = work->run;
    struct download_item *item = work->item;
    const char *endpoint = run->download->client->place->endpoint;
    long status = 0;
    char *next = NULL;
    curl_easy_getinfo(work->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(work->curl, CURLINFO_REDIRECT_URL, &next);
    if (next) next = strdup(next);
    curl_multi_remove_handle(run->multi, work->curl);
    work->added = false;
    // What the hub says the content is and what it lists must be one thing.
    if (result == CURLE_OK && item->file->kind == DIGEST_SHA256 && *work->headers.linked_etag &&
        hub_same_origin(work->url, endpoint) && strcmp(work->headers.linked_etag, item->file->hash)) {
        free(next);
        return error_set(error, ERROR_INPUT,
                         "the hub lists it with the SHA-256 %.12s... and gives it with %.12s...",
                         item->file->hash, work->headers.linked_etag);
    }
    if (item->here == item->file->size && work->error.kind == ERROR_NONE) {
        free(next);
        set_state(run, item, DOWNLOAD_CHECKING);
        return true;
    }
    if (result == CURLE_OK && next && status >= 300 && status < 400) {
        bool may = hub_may_follow(endpoint, next) && work->redirects++ < HUB_REDIRECTS_MOST;
        free(work->url);
        work->url = next;
        return may ? send_request(work, error)
                   : error_set(error, ERROR_UNAVAILABLE,
                               "the hub redirects to an address that is not https, or in "
                               "a circle");
    }
    free(next);
    return try_again(work, result, status, error);
}

// --------------------------------------------------------------------------------------------------------------- the run

static bool collect(struct run *run, struct download_item **at, struct error *error) {
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(run->multi, &left));) {
        struct download_work *work = NULL;
        CURLcode result = message->data.result;
        if (message->msg != CURLMSG_DONE) continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&work);
        *at = work->item;
        if (!answered(work, result, error)) return false;
    }
    return true;
}

// What waits for something else than the network: a pause, a hash, a lock, its turn.
static bool advance(struct run *run, struct download_item **at, struct error *error) {
    struct download *download = run->download;
    int parallel = download->parallel < 1               ? 1
                   : download->parallel > PARALLEL_MOST ? PARALLEL_MOST
                                                        : download->parallel;
    double now = clock_seconds();
    bool look = now >= run->lock_look;
    if (look) run->lock_look = now + LOCK_SECONDS;
    for (int i = 0; i < download->count; i++) {
        struct download_item *item = *at = &download->items[i];
        bool may_begin = item->state == DOWNLOAD_WAITING || (item->state == DOWNLOAD_LOCKED && look);
        if (item->state == DOWNLOAD_PAUSED && now >= item->work->resume_at) {
            if (!start_request(item->work, error)) return false;
        } else if (item->state == DOWNLOAD_CHECKING && follower_finished(item->work->follower)) {
            if (!judge(item->work, error)) return false;
        } else if (may_begin && run->active < parallel) {
            if (!begin(run, item, error)) return false;
        }
    }
    return true;
}

static bool all_done(const struct download *download) {
    for (int i = 0; i < download->count; i++)
        if (download->items[i].state != DOWNLOAD_DONE) return false;
    return true;
}

static bool run_all(struct run *run, struct error *error) {
    struct download *download = run->download;
    const struct hub_client *client = download->client;
    double tick = 0;
    while (!all_done(download)) {
        struct download_item *at = NULL;
        int running;
        if (client->cancelled && client->cancelled(client->user))
            return error_set(error, ERROR_CANCELLED, "interrupted");
        bool good = advance(run, &at, error);
        if (good && curl_multi_perform(run->multi, &running) != CURLM_OK) return no_memory(error);
        good = good && collect(run, &at, error);
        if (!good) // what is wrong with the repository as a whole names it already
            return strncmp(error->message, at->name, strlen(at->name))
                       ? error_prefix(error, "%s/%s", at->name, at->file->path)
                       : false;
        if (clock_seconds() >= tick) {
            tick = clock_seconds() + TICK_SECONDS;
            if (download->changed) download->changed(download->user, download, NULL);
        }
        if (!all_done(download)) curl_multi_poll(run->multi, NULL, 0, (int)(TICK_SECONDS * 500), NULL);
    }
    if (download->changed) download->changed(download->user, download, NULL);
    return true;
}

bool download_run(struct download *download, struct error *error) {
    struct run run = {.download = download, .multi = curl_multi_init()};
    if (!run.multi) return no_memory(error);
    bool good = true;
    for (int i = 0; good && i < download->count; i++)
        good = hub_snapshot_make(download->items[i].snapshot, error);
    good = good && run_all(&run, error);
    for (int i = 0; i < download->count; i++) end_work(download->items[i].work);
    curl_multi_cleanup(run.multi);
    return good;
}
