// See near.h.
#include "base/near.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

#define NAME_MOST    100
#define PREFIX_LEAST 3

static int least_of(int a, int b) {
    return a < b ? a : b;
}

static bool same(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

// Optimal string alignment: the edit distance that counts a swap of neighbours as one edit.
int near_distance(const char *a, const char *b) {
    int rows[3][NAME_MOST + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > NAME_MOST || m > NAME_MOST) return 1000;
    int *above2 = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++) above[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = above[j - 1] + !same(a[i - 1], b[j - 1]);
            best = least_of(best, least_of(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                best = least_of(best, above2[j - 2] + 1);
            row[j] = best;
        }
        int *free_row = above2;
        above2 = above;
        above = row;
        row = free_row;
    }
    return above[m];
}

// Whether [text] begins with the three or more letters of [start].
static bool begins(const char *text, const char *start) {
    size_t length = strlen(start);
    if (length < PREFIX_LEAST || length > strlen(text)) return false;
    for (size_t i = 0; i < length; i++)
        if (!same(text[i], start[i])) return false;
    return true;
}

const char *near_match(const char *name, const char *const *names, int count) {
    const char *best = NULL;
    int best_distance = 1000;
    for (int i = 0; i < count; i++) {
        if (!names[i]) continue;
        size_t longer = strlen(names[i]) > strlen(name) ? strlen(names[i]) : strlen(name);
        int distance = near_distance(name, names[i]), most = (int)longer / 3;
        if (distance > (most < 1 ? 1 : most) || distance >= best_distance || distance >= (int)longer)
            continue;
        best_distance = distance;
        best = names[i];
    }
    for (int i = 0; !best && i < count; i++)
        if (names[i] && (begins(names[i], name) || begins(name, names[i]))) best = names[i];
    return best;
}

bool glob_match(const char *pattern, const char *name) {
    const char *star = NULL, *from = NULL;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) { // the last star takes one letter more
            pattern = star + 1;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}
