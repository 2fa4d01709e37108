// `harrow study`: many recipes on one model, resumable.
#ifndef HARROW_EVAL_STUDY_H_
#define HARROW_EVAL_STUDY_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "harrow/run_control.h"
#include "harrow/study.h"

namespace harrow {

Result<StudyReport> RunStudy(const StudyOptions& options, std::shared_ptr<ThreadPool> pool,
                             const RunControl* control);

// The frontier as plots and tables.
std::string StudyPage(const StudyReport& report);

}  // namespace harrow

#endif  // HARROW_EVAL_STUDY_H_
