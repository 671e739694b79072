// A worker that draws nothing, for tests of what stands around it: README.md lists what it can be asked to do. One thread;
// while it waits it beats and listens. Relies on queue's messages, image.
#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "image/image.h"
#include "queue/frame.h"
#include "queue/names.h"
#include "queue/process.h"
#include "queue/queue.h"
#include "standin/words.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIDE_DEFAULT = 256, MULTIPLE = 16, COLOURS = 8, CACHED_MOST = 64, HEADER_BYTES = 65536 };

struct cached { // an encoded picture
    int width, height, colour, quality;
    enum image_format format;
    bool noise, wants_alpha;
    bool transparent; // what came of that
    struct buffer bytes;
};

struct standin {
    const char *model, *spool, *always; // always: LIMN_STANDIN
    struct buffer in, out;
    long long headway;
    double next_beat;
    struct cached cache[CACHED_MOST];
    int next_cached;
    json_t *
        next; // a job that came while another one was in work: a fault of the queue's, kept for "garbage" tests
    // The job in work.
    char job[NAME_ID_MOST + 1];
    json_int_t attempt;
    bool busy, cancelled, deaf;
};

struct job {
    const json_t *message;
    struct words words;
    int width, height, count, steps, previews, quality;
    int references, reference_tokens, text_tokens;
    int64_t seed;
    enum image_format format;
    bool misbehaves, transparent;
};

static _Noreturn void give_up(const char *what) {
    fprintf(stderr, "limn-standin: %s\n", what);
    _exit(9);
}

// ---------------------------------------------------------------------------------------------------------- messages

static void flush(struct standin *standin) {
    for (size_t at = 0; at < standin->out.length;) {
        ssize_t sent = send(PROCESS_SOCKET, standin->out.data + at, standin->out.length - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) _exit(0); // the server is gone
        at += (size_t)sent;
    }
    standin->out.length = 0;
}

// Sent with the next flush, so that what an instant job says goes out at once.
static void say(struct standin *standin, const char *type, json_t *message) {
    if (!frame_add(&standin->out, type, message, NULL)) give_up("a message that cannot be framed");
}

// {"job", "attempt"} and what [more] (taken over) holds.
static void say_of_job(struct standin *standin, const char *type, json_t *more) {
    json_t *message = json_pack("{s:s, s:I}", "job", standin->job, "attempt", standin->attempt);
    json_object_update(message, more);
    json_decref(more);
    say(standin, type, message);
}

static void beat(struct standin *standin) {
    say(standin, "heartbeat", json_pack("{s:I}", "headway", (json_int_t)standin->headway));
    flush(standin);
    standin->next_beat = clock_seconds() + 1;
}

// Takes in what has come. A job that comes while one is in work waits until that is done.
static void listen_to(struct standin *standin) {
    char bytes[16384];
    ssize_t got = recv(PROCESS_SOCKET, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EINTR) return;
    if (got <= 0) _exit(0);
    if (!buffer_add(&standin->in, bytes, (size_t)got)) give_up("no memory");
    json_t *message;
    const char *type;
    enum frame_state state;
    while ((state = frame_take(&standin->in, &message, &type, NULL)) == FRAME_READY) {
        const char *job = json_string_value(json_object_get(message, "job"));
        if (!strcmp(type, "stop")) _exit(0);
        if (!strcmp(type, "cancel") && job && !strcmp(job, standin->job) && standin->busy &&
            json_integer_value(json_object_get(message, "attempt")) == standin->attempt)
            standin->cancelled = true;
        if (!strcmp(type, "job")) {
            if (standin->next) give_up("the queue gave a second job");
            standin->next = json_incref(message);
        }
        json_decref(message);
    }
    if (state == FRAME_BAD) give_up("the queue broke the protocol");
}

// Waits for [milliseconds] (negative: for a message), beating and listening; a cancel ends it.
static void wait_for(struct standin *standin, double milliseconds) {
    double until = clock_seconds() + milliseconds / 1000;
    flush(standin);
    for (;;) {
        double now = clock_seconds(), left = milliseconds < 0 ? 3600 : until - now;
        if (left <= 0) return;
        if (now >= standin->next_beat) beat(standin);
        double next = standin->next_beat - now;
        struct pollfd fd = {PROCESS_SOCKET, POLLIN, 0};
        if (poll(&fd, 1, (int)((left < next ? left : next) * 1000) + 1) > 0) {
            listen_to(standin);
            if (milliseconds < 0 || (standin->cancelled && !standin->deaf)) return;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- pictures

// Plain, or noise of a fixed generator (xorshift32).
static void paint(struct image *image, int colour, bool noise) {
    size_t count = (size_t)image->width * (size_t)image->height * 3;
    uint32_t state = 2463534242u + (uint32_t)colour;
    for (size_t i = 0; i < count; i++) {
        if (noise) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            image->pixels[i] = (uint8_t)(state >> 24);
        } else {
            image->pixels[i] = (uint8_t)(40 + 25 * colour + (int)(i % 3) * 20);
        }
    }
}

static const struct cached *picture_of(struct standin *standin, const struct job *job, int colour,
                                       struct error *error) {
    bool noise = words_have(&job->words, "noise");
    for (int i = 0; i < CACHED_MOST; i++) {
        struct cached *at = &standin->cache[i];
        if (at->bytes.length && at->width == job->width && at->height == job->height &&
            at->colour == colour && at->format == job->format && at->quality == job->quality &&
            at->noise == noise && at->wants_alpha == job->transparent)
            return at;
    }
    struct cached *free_one = &standin->cache[standin->next_cached++ % CACHED_MOST];
    buffer_free(&free_one->bytes);
    *free_one = (struct cached){.width = job->width,
                                .height = job->height,
                                .colour = colour,
                                .quality = job->quality,
                                .format = job->format,
                                .noise = noise,
                                .wants_alpha = job->transparent};
    struct image_alpha alpha = {0};
    struct image image;
    if (!image_alloc(&image, job->width, job->height, error)) return NULL;
    paint(&image, colour, noise);
    free_one->transparent = job->transparent && image_cut_background(&image, &alpha, error);
    struct image_encode_options options = {.format = job->format,
                                           .quality = job->quality,
                                           .alpha = alpha.values,
                                           .metadata = {"AI generated;standin", "limn", "stand-in"}};
    bool good = image_encode(&image, &options, &free_one->bytes, error);
    image_free(&image);
    image_alpha_free(&alpha);
    if (good) return free_one;
    buffer_free(&free_one->bytes);
    return NULL;
}

// "<job>-<attempt>-<tag>.<format>" in the spool.
static bool write_picture(struct standin *standin, const struct job *job, const char *tag, int colour,
                          char name[NAME_FILE_MOST], bool *transparent, struct error *error) {
    const struct cached *picture = picture_of(standin, job, colour, error);
    if (!picture) return false;
    const struct buffer *bytes = &picture->bytes;
    *transparent = picture->transparent;
    snprintf(name, NAME_FILE_MOST, "%s-%lld-%s.%s", standin->job, (long long)standin->attempt, tag,
             image_format_name(job->format));
    char *path = path_join(standin->spool, name);
    int file = path ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    bool good = file >= 0 && write(file, bytes->data, bytes->length) == (ssize_t)bytes->length;
    int cause = errno;
    if (file >= 0) close(file);
    if (!good) {
        if (file >= 0) unlink(path);
        error_set(error, ERROR_IO, "%s: %s", name, strerror(cause));
    }
    free(path);
    return good;
}

// ------------------------------------------------------------------------------------------------------- misbehaviour

static void put_raw(struct standin *standin, const void *bytes, size_t size) {
    if (!buffer_add(&standin->out, bytes, size)) give_up("no memory");
    flush(standin);
}

static void say_picture(struct standin *standin, const char *type, int index, const char *file) {
    say_of_job(standin, type,
               json_pack("{s:s, s:i, s:i, s:i, s:i}", "file", file, "image", index, "width", 16, "height", 16,
                         "seed", 1));
    flush(standin);
}

static void break_protocol(struct standin *standin, const char *kind) {
    char name[NAME_FILE_MOST];
    snprintf(name, sizeof name, "%s-5.png", standin->job);
    if (!strcmp(kind, "json")) put_raw(standin, "\x05\0\0\0hello", 9);
    if (!strcmp(kind, "length")) put_raw(standin, "\x01\0\x01\0xxxx", 8);
    if (!strcmp(kind, "version")) put_raw(standin, "\x19\0\0\0{\"v\":2,\"type\":\"progress\"}", 29);
    if (!strcmp(kind, "type")) say_of_job(standin, "nonsense", json_object());
    if (!strcmp(kind, "order")) say_picture(standin, "image", 5, name);
    if (!strcmp(kind, "early")) say_of_job(standin, "done", json_object());
    if (!strcmp(kind, "foreign")) say_picture(standin, "image", 0, "another-job-0.png");
    if (!strcmp(kind, "escape")) say_picture(standin, "image", 0, "../../../etc/passwd");
    flush(standin);
    wait_for(standin, 3600e3); // the queue ends this process
}

static void talk_stale(struct standin *standin) {
    json_int_t attempt = standin->attempt;
    char name[NAME_FILE_MOST];
    snprintf(name, sizeof name, "%s-0.png", standin->job);
    standin->attempt = attempt + 1;
    say_picture(standin, "image", 0, name);
    standin->attempt = attempt > 1 ? attempt - 1 : attempt + 1;
    say_of_job(standin, "done", json_object());
    standin->attempt = attempt;
}

// With "@once" only where the mark of a run before is not there.
static bool is_first_run(struct standin *standin) {
    char name[NAME_ID_MOST + 16];
    snprintf(name, sizeof name, "%s-once", standin->job);
    char *path = path_join(standin->spool, name);
    if (!path) give_up("no memory");
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
    else
        unlink(path);
    free(path);
    return file >= 0;
}

// What a job is to do at [stage]. False when it has failed.
static bool at_stage(struct standin *standin, const struct job *job, const char *stage, struct error *error) {
    const struct words *words = &job->words;
    standin->headway++;
    if (standin->cancelled && !standin->deaf)
        return error_set(error, ERROR_CANCELLED, "the request was cancelled");
    if (!job->misbehaves) return true;
    flush(standin);
    if (words_are(words, "crash", stage)) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (words_are(words, "kill", stage)) raise(SIGKILL);
    if (words_are(words, "exit", stage)) _exit(5);
    if (words_are(words, "hang", stage)) raise(SIGSTOP);
    if (words_are(words, "stall", stage)) wait_for(standin, 3600e3);
    if (words_are(words, "memory", stage))
        return error_set(error, ERROR_MEMORY, "not enough memory for 12345678 values of a request");
    return true;
}

// --------------------------------------------------------------------------------------------------------------- jobs

static int number_of(const struct job *job, const char *key) {
    return (int)json_integer_value(json_object_get(job->message, key));
}

static bool read_head(struct standin *standin, const char *name, const char *field,
                      struct image_header *header, struct error *error) {
    char *path = name && name_is_file(name) ? path_join(standin->spool, name) : NULL;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    char *head = malloc(HEADER_BYTES);
    ssize_t size = file >= 0 && head ? read(file, head, HEADER_BYTES) : -1;
    struct error cause = {0};
    bool good = size >= 0 && image_read_header(head, (size_t)size, header, &cause);
    if (!good)
        error_set_field(error, ERROR_INPUT, field, "%s: %s", field,
                        size < 0 ? "no such file" : cause.message);
    if (file >= 0) close(file);
    free(head);
    free(path);
    return good;
}

static bool read_references(struct standin *standin, struct job *job, struct image_header *first,
                            struct error *error) {
    const json_t *names = json_object_get(job->message, "references");
    job->references = (int)json_array_size(names);
    for (int i = 0; i < job->references; i++) {
        struct image_header header;
        char field[32];
        snprintf(field, sizeof field, "image[%d]", i);
        if (!read_head(standin, json_string_value(json_array_get(names, (size_t)i)), field, &header, error))
            return false;
        if (i == 0) *first = header;
        job->reference_tokens += (header.width / MULTIPLE) * (header.height / MULTIPLE);
    }
    const char *mask = json_string_value(json_object_get(job->message, "mask"));
    struct image_header header;
    if (!mask) return true;
    if (!read_head(standin, mask, "mask", &header, error)) return false;
    return (header.width == first->width && header.height == first->height) ||
           error_set_field(error, ERROR_INPUT, "mask", "the mask is %dx%d pixels, expected the image's %dx%d",
                           header.width, header.height, first->width, first->height);
}

static char *read_prompt(struct standin *standin, const json_t *message) {
    const char *text = json_string_value(json_object_get(message, "prompt"));
    const char *file = json_string_value(json_object_get(message, "prompt_file"));
    char *data = NULL, *path;
    size_t size;
    if (text) return strdup(text);
    if (!file || !name_is_file(file) || !(path = path_join(standin->spool, file))) return NULL;
    bool good = file_read(path, 1 << 20, &data, &size, NULL);
    free(path);
    return good ? data : NULL;
}

static bool read_job(struct standin *standin, struct job *job, const char *prompt, struct error *error) {
    struct image_header first = {0};
    bool in_word = false;
    for (const char *c = prompt; *c; c++) {
        bool letter = *c != ' ';
        job->text_tokens += letter && !in_word;
        in_word = letter;
    }
    const char *format = json_string_value(json_object_get(job->message, "output_format"));
    job->format = image_format_from_name(format);
    if (job->format == IMAGE_UNKNOWN)
        return error_set_field(error, ERROR_INPUT, "output_format", "output_format: \"%.20s\" is not known",
                               format ? format : "");
    job->count = number_of(job, "count");
    job->seed = json_integer_value(json_object_get(job->message, "seed"));
    job->quality = number_of(job, "output_quality");
    job->previews = number_of(job, "preview_count");
    job->transparent = json_is_true(json_object_get(job->message, "transparent"));
    if (job->transparent && job->format == IMAGE_JPEG)
        return error_set_field(error, ERROR_INPUT, "background",
                               "a jpeg picture has no transparent background");
    int sigmas = (int)json_array_size(json_object_get(job->message, "sigmas")),
        steps = number_of(job, "steps");
    job->steps = sigmas ? sigmas : steps ? steps : words_number(&job->words, "steps", 4);
    if (!read_references(standin, job, &first, error)) return false;
    int width = number_of(job, "width"), height = number_of(job, "height");
    if (width < 1) width = first.width ? first.width / MULTIPLE * MULTIPLE : SIDE_DEFAULT;
    if (height < 1) height = first.height ? first.height / MULTIPLE * MULTIPLE : SIDE_DEFAULT;
    job->width = number_of(job, "deliver_width") > 0 ? number_of(job, "deliver_width") : width;
    job->height = number_of(job, "deliver_height") > 0 ? number_of(job, "deliver_height") : height;
    if (job->width < 1 || job->width > 4096 || job->height < 1 || job->height > 4096)
        return error_set_field(error, ERROR_INPUT, "size", "size is %dx%d", job->width, job->height);
    const char *field = words_value(&job->words, "refuse");
    return !field || error_set_field(error, ERROR_INPUT, field, "%s: refused, as the prompt asks for", field);
}

static void say_progress(struct standin *standin, const struct job *job, const char *stage, int image,
                         int step) {
    say_of_job(standin, "progress",
               json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "stage", stage, "image", image, "images",
                         job->count, "step", step, "steps", job->steps, "block", 0, "blocks", 8));
}

static bool is_preview_step(const struct job *job, int step) {
    for (int i = 0; i < job->previews; i++)
        if ((i + 1) * job->steps / (job->previews + 1) == step) return true;
    return false;
}

static int cells_of(const struct job *job) {
    return job->width / MULTIPLE * (job->height / MULTIPLE);
}

static bool take_steps(struct standin *standin, const struct job *job, int image, struct error *error) {
    for (int step = 0; step < job->steps; step++) {
        say_progress(standin, job, "steps", image, step);
        wait_for(standin, words_number(&job->words, "ms", 0));
        if (!at_stage(standin, job, step == job->steps / 2 ? "steps" : "", error)) return false;
        if (step == 0 || !is_preview_step(job, step)) continue;
        char name[NAME_FILE_MOST], tag[48];
        snprintf(tag, sizeof tag, "preview-%d-%d", image, step);
        wait_for(standin, words_number(&job->words, "preview", 0));
        bool transparent;
        if (!write_picture(standin, job, tag, (image + step) % COLOURS, name, &transparent, error))
            return false;
        say_of_job(standin, "preview",
                   json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "file", name, "image", image,
                             "step", step, "steps", job->steps, "width", job->width, "height", job->height,
                             "text_tokens", job->text_tokens, "reference_tokens", job->reference_tokens,
                             "output_tokens", cells_of(job)));
    }
    return true;
}

static bool deliver(struct standin *standin, const struct job *job, struct error *error) {
    for (int i = 0; i < job->count; i++) {
        char name[NAME_FILE_MOST], tag[16];
        int64_t seed = job->seed + i;
        snprintf(tag, sizeof tag, "%d", i);
        say_progress(standin, job, "decode", i, job->steps - 1);
        int pause = words_number(&job->words, "decode", 0);
        if (pause > 0) wait_for(standin, pause);
        if (standin->cancelled && !standin->deaf)
            return error_set(error, ERROR_CANCELLED, "the request was cancelled");
        if (i == 0 && !at_stage(standin, job, "decode", error)) return false;
        bool transparent;
        if (!write_picture(standin, job, tag, (int)(seed % COLOURS), name, &transparent, error)) return false;
        say_of_job(standin, "image",
                   json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:b, s:i, s:i, s:i}", "file", name, "image", i,
                             "images", job->count, "width", job->width, "height", job->height, "seed",
                             (json_int_t)seed, "transparent", transparent, "text_tokens", job->text_tokens,
                             "reference_tokens", job->reference_tokens, "output_tokens", cells_of(job)));
        if (i == 0 && !at_stage(standin, job, "image", error)) return false;
    }
    return at_stage(standin, job, "done", error);
}

static bool draw(struct standin *standin, struct job *job, const char *prompt, struct error *error) {
    if (!read_job(standin, job, prompt, error)) return false;
    say_progress(standin, job, "text", 0, 0);
    if (!at_stage(standin, job, "text", error)) return false;
    if (job->references) say_progress(standin, job, "references", 0, 0);
    if (!at_stage(standin, job, "references", error)) return false;
    for (int i = 0; i < job->count; i++)
        if (!take_steps(standin, job, i, error)) return false;
    return deliver(standin, job, error);
}

static void serve(struct standin *standin, json_t *message) {
    struct job job = {.message = message};
    struct error error = {0};
    const char *id = json_string_value(json_object_get(message, "job"));
    if (!id || !name_is_id(id)) give_up("a job with a bad id");
    snprintf(standin->job, sizeof standin->job, "%s", id);
    standin->attempt = json_integer_value(json_object_get(message, "attempt"));
    standin->busy = true;
    standin->cancelled = false;
    char *prompt = read_prompt(standin, message);
    words_read(&job.words, standin->always, prompt ? prompt : "");
    job.misbehaves =
        words_misbehave(&job.words) && (!words_have(&job.words, "once") || is_first_run(standin));
    bool good = at_stage(standin, &job, "accept", &error);
    say_of_job(standin, "started", json_object());
    if (good && words_have(&job.words, "stale")) talk_stale(standin);
    if (good && job.misbehaves && words_value(&job.words, "garbage"))
        break_protocol(standin, words_value(&job.words, "garbage"));
    good = good && draw(standin, &job, prompt ? prompt : "", &error);
    if (good)
        say_of_job(standin, "done", json_object());
    else
        say_of_job(standin, "failed",
                   json_pack("{s:s, s:s, s:s}", "kind", error_kind_name(error.kind), "field", error.field,
                             "message", error.message));
    standin->busy = false;
    flush(standin);
    words_free(&job.words);
    free(prompt);
}

// ----------------------------------------------------------------------------------------------------------- the whole

static void get_ready(struct standin *standin) {
    struct words words;
    words_read(&words, standin->always, "");
    standin->next_beat = clock_seconds();
    if (words_have(&words, "dead")) _exit(4);
    beat(standin);
    wait_for(standin, words_number(&words, "start", 0));
    if (words_have(&words, "fatal")) {
        say(standin, "fatal",
            json_pack("{s:s, s:s, s:s}", "kind", "not_found", "field", "", "message", "there is no model"));
        flush(standin);
        _exit(1);
    }
    const char *slash = strrchr(standin->model, '/');
    say(standin, "ready",
        json_pack("{s:s, s:i, s:i, s:i, s:f, s:i, s:b, s:b}", "name",
                  slash && slash[1] ? slash + 1 : "stand-in", "default_width", SIDE_DEFAULT, "default_height",
                  SIDE_DEFAULT, "default_steps", words_number(&words, "steps", 4), "default_guidance", 2.5,
                  "side_multiple", MULTIPLE, "has_guidance", 1, "trained", 1));
    flush(standin);
    words_free(&words);
}

int main(int count, char **arguments) {
    static struct standin standin = {.model = "stand-in", .spool = "."};
    for (int i = 1; i + 1 < count; i++) {
        if (!strcmp(arguments[i], "--model")) standin.model = arguments[i + 1];
        if (!strcmp(arguments[i], "--spool")) standin.spool = arguments[i + 1];
    }
    standin.always = getenv("LIMN_STANDIN");
    if (!standin.always) standin.always = "";
    struct error error = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!image_library_start("limn-standin", &error)) give_up(error.message);
    get_ready(&standin);
    for (;;) {
        while (!standin.next) wait_for(&standin, -1);
        json_t *job = standin.next;
        standin.next = NULL;
        serve(&standin, job);
        json_decref(job);
    }
}
