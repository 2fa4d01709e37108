// Where a run may write.
#ifndef HARROW_COMPRESS_OUTPUT_PATH_H_
#define HARROW_COMPRESS_OUTPUT_PATH_H_

#include <string>

#include "base/status.h"

namespace harrow {

// Fails when the directory `output` is `source` (a file or directory) or has it in it, links
// resolved: replacing the one would destroy the other.
Status CheckOutputSparesSource(const std::string& output, const std::string& source);

// Links resolved, without a "/" at its end: what names beside it begin with.
Result<std::string> OutputPath(const std::string& output);

// Of the checkpoint writer: there while a run that can be continued has not finished.
std::string WorkFolder(const std::string& output_path);

}  // namespace harrow

#endif  // HARROW_COMPRESS_OUTPUT_PATH_H_
