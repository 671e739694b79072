// Where limn keeps what outlives a run. Relies on base.
#ifndef LIMN_CLI_STATE_H
#define LIMN_CLI_STATE_H

#include "base/error.h"

// $XDG_STATE_HOME/limn, else ~/.local/state/limn; made when it is not there. In fresh memory (free()), NULL with an error.
char *state_folder(struct error *error);

#endif
