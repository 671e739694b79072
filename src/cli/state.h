// Where limn keeps what outlives a run. Relies on base.
#ifndef LIMN_CLI_STATE_H
#define LIMN_CLI_STATE_H

#include "base/error.h"

#include <limits.h> // defines: PATH_MAX

// $XDG_STATE_HOME/limn, else ~/.local/state/limn; made when it is not there. In fresh memory (free()), NULL with an error.
char *state_folder(struct error *error);

// The model that comes with limn: ./models/pictogram in its source folder, else what was installed beside the program,
// <prefix>/share/limn/models/pictogram.
void bundled_model(char path[PATH_MAX]);

#endif
