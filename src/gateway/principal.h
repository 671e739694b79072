// Who calls: a key, or a program of this machine that needs none. Relies on store/key.h.
#ifndef LIMN_GATEWAY_PRINCIPAL_H
#define LIMN_GATEWAY_PRINCIPAL_H

#include "store/key.h"

// Copied by whoever keeps it beyond the call that it was handed to.
struct principal {
    bool keyless;        // [key] is empty but for its limits: no key is needed here (yet)
    struct key_info key; // id "" where keyless
    char project
        [KEY_PROJECT_MOST]; // what the call belongs to: the key's, or another one it may name; "default" keyless
    char client[46];        // the client's address, behind trusted proxies
    // Whom the scheduler is to be fair between: the key's id, or "address:" and the address.
    char name[64];
};

#endif
