// limn's own folder of a model that was pulled, $XDG_DATA_HOME/limn/models/ID: a limn.json that stands on the snapshot in the hub's
// cache ("base") and says what that lacks: LoRAs, the schedule, the system message. Relies on pull_plan.h, docs/model-folder.md.
#ifndef LIMN_CLI_PULL_FOLDER_H
#define LIMN_CLI_PULL_FOLDER_H

#include "cli/pull_plan.h"

// The text that the card's model reads before a prompt, in fresh memory: from the limn.json of an earlier pull where its hash is
// right, else from its owner's repository at GitHub (LIMN_GITHUB_RAW: elsewhere, for mirrors). NULL with an error; *none: the card
// has none.
char *pull_system_message(const struct model_card *card, const struct hub_client *client, bool *none,
                          struct error *error);

// Writes limn.json. [system_message] may be NULL. Returns the folder, in fresh memory.
char *pull_folder_write(const struct pull_plan *plan, const char *system_message, struct error *error);

#endif
