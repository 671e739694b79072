// See line.h. Fairness is start-time fair queueing (Goyal, Vin, Cheng 1996) with tags kept by principal: a principal's `used`
// is the start tag of its next job, and one that comes anew starts at the virtual time.
#include "queue/line.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ------------------------------------------------------------------------------------------------------------- jobs

// What a job takes, where nobody says: megapixels (those of a job without a size counted as one) times steps times pictures.
static double cost_of(const struct queue_job *job) {
    double pixels = job->width > 0 && job->height > 0 ? (double)job->width * job->height / 1048576 : 1;
    int steps = job->sigma_count > 0 ? job->sigma_count : job->steps > 0 ? job->steps : 8;
    return pixels * steps * (job->count > 0 ? job->count : 1);
}

// What [from] points to is copied into the arena.
static bool copy_job(struct line_job *job, const struct queue_job *from) {
    struct arena *arena = &job->arena;
    struct queue_job *to = &job->job;
    *to = *from;
    to->id = job->id;
    bool good = (to->prompt = arena_strdup(arena, from->prompt)) &&
                (to->output_format = arena_strdup(arena, from->output_format));
    for (int i = 0; good && i < from->reference_count; i++)
        good = (to->reference_files[i] = arena_strdup(arena, from->reference_files[i]));
    if (good && from->mask_file) good = (to->mask_file = arena_strdup(arena, from->mask_file));
    for (int i = 0; good && i < from->lora_count; i++)
        good = (to->loras[i].file = arena_strdup(arena, from->loras[i].file));
    if (good && from->sigma_count > 0) {
        size_t size = sizeof *from->sigmas * (size_t)from->sigma_count;
        float *sigmas = arena_alloc(arena, size);
        if (sigmas) memcpy(sigmas, from->sigmas, size);
        good = (to->sigmas = sigmas);
    }
    return good;
}

struct line_job *line_job_make(const struct scheduler_job *from, int model, struct error *error) {
    const struct queue_job *job = &from->job;
    if (!queue_job_check(job, error)) return NULL;
    if (from->principal && strlen(from->principal) >= PRINCIPAL_NAME_MOST) {
        error_set(error, ERROR_INTERNAL, "a principal's name of %zu bytes", strlen(from->principal));
        return NULL;
    }
    struct line_job *made = calloc(1, sizeof *made);
    if (made) {
        snprintf(made->id, sizeof made->id, "%s", job->id);
        made->model = model;
        made->priority = from->priority;
        made->cost = from->cost > 0 ? from->cost : cost_of(job);
        made->streams = from->streams;
        made->submitted = clock_seconds();
        if (copy_job(made, job)) return made;
    }
    line_job_free(made);
    error_set(error, ERROR_MEMORY, "no memory for the job");
    return NULL;
}

void line_job_free(struct line_job *job) {
    if (!job) return;
    arena_free(&job->arena);
    free(job);
}

// ------------------------------------------------------------------------------------------------------- principals

static struct line_principal *find_principal(const struct line *line, const char *name) {
    struct line_principal *at = line->principals;
    while (at && strcmp(at->name, name)) at = at->next;
    return at;
}

// Forgets those without jobs whose past no longer counts: whoever comes anew would start at the same place.
static void forget(struct line *line) {
    bool idle = true;
    for (struct line_principal *at = line->principals; at; at = at->next) idle = idle && at->jobs == 0;
    for (struct line_principal **link = &line->principals; *link;) {
        struct line_principal *at = *link;
        if (at->jobs == 0 && (idle || at->used <= line->now)) {
            *link = at->next;
            free(at);
        } else {
            link = &at->next;
        }
    }
    if (idle) line->now = 0;
}

static void push(struct line *line, struct line_job *job) {
    job->next = line->first;
    line->first = job;
    line->count++;
    line->of_model[job->model]++;
    job->principal->waiting++;
}

bool line_enter(struct line *line, struct line_job *job, const char *name) {
    if (!name) name = "";
    struct line_principal *principal = find_principal(line, name);
    if (!principal) {
        principal = calloc(1, sizeof *principal);
        if (!principal) return false;
        snprintf(principal->name, sizeof principal->name, "%s", name);
        principal->next = line->principals;
        line->principals = principal;
    }
    if (principal->jobs == 0 && principal->used < line->now) principal->used = line->now;
    principal->jobs++;
    job->principal = principal;
    job->order = line->next_order++;
    push(line, job);
    return true;
}

void line_return(struct line *line, struct line_job *job) {
    job->principal->used -= job->cost;
    push(line, job);
}

void line_remove(struct line *line, struct line_job *job) {
    struct line_job **link = &line->first;
    while (*link != job) link = &(*link)->next;
    *link = job->next;
    job->next = NULL;
    line->count--;
    line->of_model[job->model]--;
    job->principal->waiting--;
}

void line_leave(struct line *line, struct line_job *job) {
    if (!job->principal) return;
    job->principal->jobs--;
    job->principal = NULL;
    forget(line);
}

// ---------------------------------------------------------------------------------------------------------- looking

int line_waiting_of(const struct line *line, const char *principal) {
    const struct line_principal *at = find_principal(line, principal ? principal : "");
    return at ? at->waiting : 0;
}

struct line_job *line_find(const struct line *line, const char *id) {
    struct line_job *job = line->first;
    while (job && strcmp(job->id, id)) job = job->next;
    return job;
}

int line_position(const struct line *line, const struct line_job *job) {
    int earlier = 0;
    for (const struct line_job *at = line->first; at; at = at->next) earlier += at->order < job->order;
    return earlier;
}

// --------------------------------------------------------------------------------------------------------- choosing

// Whether [a] goes before [b], which has the same priority.
static bool goes_before(const struct line_job *a, const struct line_job *b) {
    if (a->principal != b->principal && a->principal->used != b->principal->used)
        return a->principal->used < b->principal->used;
    return a->order < b->order;
}

// The first of those below [below], by priority and then by turn.
static struct line_job *best_below(const struct line *line, const bool wanted[], int below) {
    struct line_job *best = NULL;
    for (struct line_job *at = line->first; at; at = at->next) {
        if (!wanted[at->model] || at->cancelled || (int)at->priority >= below) continue;
        if (!best || at->priority > best->priority ||
            (at->priority == best->priority && goes_before(at, best)))
            best = at;
    }
    return best;
}

struct line_job *line_choose(const struct line *line, const bool wanted[], int streak) {
    struct line_job *best = best_below(line, wanted, SCHEDULER_HIGH + 1);
    if (!best || streak < LINE_STREAK_MOST) return best;
    struct line_job *lower = best_below(line, wanted, best->priority);
    return lower ? lower : best;
}

void line_take(struct line *line, struct line_job *job, const bool wanted[], int *streak) {
    bool passes = best_below(line, wanted, job->priority) != NULL;
    struct line_job *top = best_below(line, wanted, SCHEDULER_HIGH + 1);
    *streak = passes && top && top->priority == job->priority ? *streak + 1 : 0;
    line_remove(line, job);
    line->now = job->principal->used > line->now ? job->principal->used : line->now;
    job->principal->used += job->cost;
}
