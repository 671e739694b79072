// Figures of the last 30 days, per model, provider and mode. Relies on database.h, query.h.
//
// They come from attempts. Generation is the time from dispatch to the last byte, first byte from dispatch to the provider's
// or worker's first byte, both over attempts that succeeded; queueing is apart. An attempt that failed by the caller's own
// fault or was cancelled counts neither as success nor as failure. The p-th percentile of n values is the smallest one that at
// least p percent of them do not exceed (nearest rank). Of more than two million attempts every second, third, ... gives its
// times; counts and sums are of all.
#ifndef LIMN_STORE_STATISTICS_H
#define LIMN_STORE_STATISTICS_H

#include "store/database.h"
#include "store/query.h"

#define STATISTICS_DAYS        30
#define STATISTICS_AGE_SECONDS 60 // how old what was computed may be

struct statistics;

struct statistics *statistics_open(struct error *error);
void statistics_close(struct statistics *statistics); // NULL is fine

// The object of query.h. Computed anew when what there is is older than [age_seconds], and than 50 times what computing took. [now]: microseconds since 1970 UTC. NULL
// with an error; the caller decref's.
json_t *statistics_json(struct statistics *statistics, struct database *database,
                        const struct query_stats *query, int64_t now, double age_seconds,
                        struct error *error);

#endif
