// Where a run may write.
#ifndef HARROW_COMPRESS_OUTPUT_PATH_H_
#define HARROW_COMPRESS_OUTPUT_PATH_H_

#include <string>

#include "base/status.h"

namespace harrow {

// Fails when the directory `output` is `source` (a file or directory) or has it in it, links
// resolved: replacing the one would destroy the other.
Status CheckOutputSparesSource(const std::string& output, const std::string& source);

}  // namespace harrow

#endif  // HARROW_COMPRESS_OUTPUT_PATH_H_
