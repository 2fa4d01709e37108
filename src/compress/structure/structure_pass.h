// The structural steps of a recipe: each reads a dense model, calibrates on it and writes a smaller
// one, before the ordinary run compresses what is left.
#ifndef HARROW_COMPRESS_STRUCTURE_STRUCTURE_PASS_H_
#define HARROW_COMPRESS_STRUCTURE_STRUCTURE_PASS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/run_control.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "compress/recipe.h"
#include "harrow/compress.h"

namespace harrow {

// What the ordinary run goes on with.
struct StructuredSource {
  std::string directory;
  std::vector<std::string> folders;  // results of steps, in order
  std::vector<std::string> made;     // those of them that an earlier run had not left
  std::vector<StructureReport> reports;
  CalibrationReport calibration;
  uint64_t disk_bytes_before = 0;  // of the model that the user gave
  uint64_t resident_bytes_before = 0;
};

// Runs recipe.structure, at least one step, on options.model. Step i leaves its model in
// "<output>.structure-<i>" (beside the work folder of the ordinary run, which clears what it does
// not know), where a later run with the same model, steps and calibration takes it over. A folder
// of that name that is something else, or of other settings without options.restart, is an error.
//
// Mistakes about the output and about the steps of the ordinary run that do not depend on what will
// be left are found before any work. On failure `source` has the steps that were done.
Status ApplyStructure(const CompressOptions& options, const Recipe& recipe, ThreadPool* pool,
                      const RunControl& control, StructuredSource* source);

// To be called after the ordinary run, or after ApplyStructure where that failed: removes the
// folders that no run can go on with. Those are all after success; after a failure that comes again
// when the run is repeated, those that this run made, unless it left a work folder.
void RemoveStructured(const StructuredSource& source, const CompressOptions& options,
                      const Status& outcome);

// What every tensor of a block begins with: "model.layers.3.".
std::string BlockPrefix(const Block& block, int64_t index);

}  // namespace harrow

#endif  // HARROW_COMPRESS_STRUCTURE_STRUCTURE_PASS_H_
