// Which kernel a layer would get, and what its time would be made of.
#ifndef HARROW_ADVISE_EXPLAIN_H_
#define HARROW_ADVISE_EXPLAIN_H_

#include <string_view>

#include "base/status.h"
#include "harrow/doctor.h"

namespace harrow {

// `profile` gives the times, and may be empty(); the kernels are those that Linear() would run now.
// Cannot fail but for its options.
Result<ExplainReport> ExplainLayer(const ExplainOptions& options, const MachineProfile& profile,
                                   std::string_view profile_state);

}  // namespace harrow

#endif  // HARROW_ADVISE_EXPLAIN_H_
