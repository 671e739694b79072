// A model card: what a model is, what it takes and gives, what it costs; the typed view of one file of catalog/. Relies on base,
// size.h, price.h, parameter.h.
#ifndef LIMN_CATALOG_CARD_H
#define LIMN_CATALOG_CARD_H

#include "base/arena.h"
#include "base/yaml.h"
#include "catalog/parameter.h"
#include "catalog/price.h"
#include "catalog/size.h"

#define CARD_PROVIDERS_MOST 8

struct card_texts { // borrowed from the card
    const char *const *items;
    int count;
};

struct card_pair { // a heading or question and what stands under it
    const char *name, *text;
};

struct card_pairs {
    const struct card_pair *items;
    int count;
};

// A provider's side of a card.
struct card_provider {
    const char *slug; // "local", "fal"
    const char *name; // for people: "this machine", "fal.ai"
    const char
        *model_ids[MODE_COUNT]; // the provider's own name of the model, by mode; NULL: not in this mode
    const char *config_ids[MODE_COUNT];         // "flux.2-dev-turbo-edit" in "fal/flux.2-dev-turbo-edit"
    int native_images;                          // pictures a call
    struct price_list price;                    // the local one: from limn.yaml, else the card's, else free
    const char *price_source, *price_effective; // where and since when it stands; NULL
};

// A repository of a model hub, and which of its files make the model.
struct card_repository {
    const char *name;        // "owner/name"
    const char *revision;    // a branch, a tag or a commit
    struct card_texts files; // paths or patterns ("transformer/*"), at least one; each matches something
    bool lora;               // its *.safetensors are applied to the model of the first repository
    double scale;            // of them
};

// A form in which a part is to be had: its weights in one type.
struct card_form {
    const char *part;       // "transformer" or "text_encoder"
    const char *type;       // "BF16", "Q4_K_M": a name for people and for --type
    int64_t bytes;          // about; the hub says it exactly
    const char *repository; // "owner/name"
    const char *revision;
    const char *path;  // what is opened there: a .gguf or .safetensors file, else a folder
    const char *files; // the pattern of what is fetched: the path, of a folder all files
};

// A text that belongs to a model and is kept in its owner's code on GitHub.
struct card_system_message {
    const char *repository; // "owner/name"; NULL: the model needs none, or its folder has it
    const char *revision, *file;
    const char *constant; // the name of the text in that Python file
    const char *sha256;   // of the text in UTF-8
};

enum { CARD_REPOSITORIES_MOST = 5, CARD_SIGMAS_MOST = 200, CARD_FORMS_MOST = 16, CARD_FILES_MOST = 100 };

// Where the weights of the local engine are.
struct card_weights {
    const char *folder; // name of the model folder: "FLUX.2-dev"
    const char *get;    // what to do to have them, a sentence
    const char *found;  // path of the folder; NULL: they are not here
    const char
        *missing; // what is wrong with the folder that is there; NULL where found, or where there is none
    bool served;  // by this server's worker
    // What `limn pull` fetches. The first repository is the model folder, the others are LoRAs.
    struct card_repository repositories[CARD_REPOSITORIES_MOST];
    int repository_count;
    // The forms of transformer and text encoder, those of one part finest first; none: what `files` fetches. Of a part with forms
    // `limn pull` fetches the one that fits the memory.
    struct card_form forms[CARD_FORMS_MOST];
    int form_count;
    double
        sigmas[CARD_SIGMAS_MOST]; // the default schedule before the shift, where it is not the model folder's
    int sigma_count;
    struct card_system_message system_message;
};

struct model_card {
    const char *id; // [a-z0-9._-]+
    const char *name, *creator, *creator_name, *family;
    const char *status;  // "active", "preview", "deprecated"
    bool disabled;       // by limn.yaml
    const char *release; // "2025-12" or "2025-12-29"
    int64_t released;    // seconds since 1970: `created` of the model object
    struct {
        const char *name, *spdx, *url, *notice; // notice: what a user must know; NULL
        bool commercial;
    } licence;
    bool modes[MODE_COUNT];
    struct card_texts tags, aliases, alternative_names;
    const char *summary;
    struct card_pairs sections, faq; // pages' texts, in order

    struct size_rules sizes;
    int references_most;
    int64_t reference_area; // pixels that a reference is shrunk to before it is encoded
    int prompt_most;        // characters
    int images_most;        // of n
    int steps, steps_most;
    double guidance; // the default

    struct card_parameters parameters; // with this card's handling, ranges and defaults
    struct card_provider providers[CARD_PROVIDERS_MOST];
    int provider_count;
    struct card_weights weights;
    const char *file; // where it was read from, for messages
    bool own;         // the owner's: read from catalog.folder
    struct arena arena;
};

// Reads one card; everything is copied out of [root]. [common]: the parameters that all cards share. Free with card_free.
// Errors name the file and the line of the key at fault.
struct model_card *card_read(const struct yaml_node *root, const struct card_parameters *common,
                             struct error *error);
void card_free(struct model_card *card); // NULL is fine

// Reads a card's `weights` (card_weights.c); texts are copied into [arena]. steps: the card's default, 0: none.
bool card_weights_read(const struct yaml_node *map, struct arena *arena, int steps,
                       struct card_weights *weights, struct error *error);

// The forms of [part] ("transformer", "text_encoder"), finest first; returns how many, 0 for a card without.
int card_forms_of(const struct card_weights *weights, const char *part,
                  const struct card_form *forms[CARD_FORMS_MOST]);

// Which of [count] forms is taken where [memory] bytes are available, by the rule by which a model folder is opened
// (part_choose of weights/parts.h).
const struct card_form *card_form_choose(const struct card_form *const *forms, int count, int64_t memory);

// Whether a model folder of limn's own is needed besides what is fetched: the fetched one lacks the system message, a schedule
// or has LoRAs beside it.
bool card_needs_folder(const struct model_card *card);

// Whether a text may be an id: at most 80 of a-z, 0-9, ".", "_", "-", beginning with a letter or digit.
bool card_id_good(const char *id);

// "text-to-image, image-edit"
void card_mode_names(const struct model_card *card, char *text, size_t size);

// Whether the card lets [provider] take more of a parameter than its default ("background", "prompt_enhancement",
// "enable_safety_checker", "lora"): its handling is not REFUSED.
bool card_offers(const struct model_card *card, const char *parameter, const char *provider);

const struct card_provider *card_provider(const struct model_card *card, const char *slug); // NULL: none

#endif
