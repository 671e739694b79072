// See plan_card.h.
#include "cli/plan_card.h"

#include "base/memory.h"
#include "cli/pull_progress.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void print_form(const struct card_form *form, int64_t memory, int steps) {
    const bool transformer = !strcmp(form->part, "transformer");
    char size[SIZE_TEXT], over[SIZE_TEXT];
    printf("  %-13s %-7s %9s  ", transformer ? "transformer" : "text encoder", form->type,
           size_text(form->bytes, size));
    if (!transformer)
        printf("read once, let go before the steps\n");
    else if (form->bytes <= memory)
        printf("stays in memory, let go after the last of %d steps\n", steps);
    else
        printf("%s or more are read from the disk in each of %d steps\n",
               size_text(form->bytes - memory, over), steps);
}

static json_t *form_json(const struct card_form *form, int64_t memory) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:b}", "part", form->part, "type", form->type, "mapped_bytes",
                     (json_int_t)form->bytes, "repository", form->repository, "path", form->path, "resident",
                     form->bytes <= memory);
}

void plan_card_print(const struct model_card *card, const char *const *memories, int count, int steps,
                     json_t *list) {
    static const char *const parts[] = {"transformer", "text_encoder"};
    char size[SIZE_TEXT];
    if (!list) printf("%s is not here. Its forms by memory, as `limn pull` chooses them:\n", card->id);
    for (int i = 0; i < count; i++) {
        const int64_t memory = memories[i] ? memory_parse(memories[i]) : memory_available();
        json_t *chosen = json_array();
        if (!list) printf("%s (%s)\n", memories[i] ? memories[i] : "available now", size_text(memory, size));
        for (int p = 0; p < 2; p++) {
            const struct card_form *forms[CARD_FORMS_MOST];
            const int form_count = card_forms_of(&card->weights, parts[p], forms);
            if (!form_count) continue;
            const struct card_form *form = card_form_choose(forms, form_count, memory);
            if (list)
                json_array_append_new(chosen, form_json(form, memory));
            else
                print_form(form, memory, steps ? steps : card->steps);
        }
        if (list)
            json_array_append_new(list, json_pack("{s:I, s:b, s:O}", "memory_bytes", (json_int_t)memory,
                                                  "fetched", false, "forms", chosen));
        else
            printf("  limn pull %s%s%s\n", card->id, memories[i] ? " --memory " : "",
                   memories[i] ? memories[i] : "");
        json_decref(chosen);
    }
    if (!list) puts("Memory of limn's own is planned when the model is here; for --type the forms are:");
    for (int i = 0; !list && i < card->weights.form_count; i++) {
        const struct card_form *form = &card->weights.forms[i];
        printf("  %-13s %-7s %9s  %s/%s\n",
               !strcmp(form->part, "transformer") ? "transformer" : "text encoder", form->type,
               size_text(form->bytes, size), form->repository, form->path);
    }
}
