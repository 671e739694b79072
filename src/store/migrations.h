// The steps from one version of the tables to the next. A step that was released is never changed: what comes later is a new
// step. Relies on nothing.
#ifndef LIMN_STORE_MIGRATIONS_H
#define LIMN_STORE_MIGRATIONS_H

// MIGRATIONS[k] brings version k to version k + 1; DATABASE_VERSION of them. Version 0 is an empty file.
extern const char *const MIGRATIONS[];

#endif
