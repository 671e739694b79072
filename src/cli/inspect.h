// What `limn inspect` has to say, as JSON: the printed text is made from it too. Relies on flux, weights, jansson.
#ifndef LIMN_CLI_INSPECT_H
#define LIMN_CLI_INSPECT_H

#include "base/error.h"

#include <jansson.h> // defines: json_t

// A weight file, a shard index or a folder of weights:
//   {"kind": "weights", "path", "class"?, "files", "bytes", "format": "safetensors" or "GGUF", "metadata": {key: value},
//    "recognised": [{"part", "layout", "prefix"?, "totals"?, "scales"?: {kind: tensors}, "problem"?}], "holds"?,
//    "totals": {"tensors", "values", "bytes", "types": {type: {"tensors", "values", "bytes"}}},
//    "tensors": [{"name", "type", "shape", "bytes", "file"}]}
// The caller decref's. NULL with an error.
json_t *inspect_weights(const char *path, struct error *error);

// A model folder:
//   {"kind": "model", "path", "pipeline"?, "name"?, "settings"?: {...},
//    "parts": [{"part", "path"?, "class"?, "layout"?, "prefix"?, "files"?, "bytes"?, "totals"?, "scales"?: {kind: tensors},
//               "shape"?: {...}, "problem"?}],
//    "problems": [text]}
// What is wrong with the model is in "problems"; an error is what kept limn from looking at all.
json_t *inspect_model(const char *folder, struct error *error);

// The totals under "recognised" and of parts are those of the tensors as limn uses them: without scales, in their logical shapes.
//
// Whether [path] is a folder that looks like a model: with model_index.json, limn.json or a part's folder in it, or files that
// hold two of its parts.
bool inspect_is_model(const char *path);

#endif
