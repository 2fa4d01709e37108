#include "kernels/elementwise.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/nonlinear.h"
#include "kernels/isa.h"

namespace harrow {

const NonlinearKernels& ActiveNonlinear() {
#if defined(__x86_64__)
  if (ActiveIsa() >= Isa::kAvx512) return kNonlinearAvx512;
  if (ActiveIsa() >= Isa::kAvx2) return kNonlinearAvx2;
#endif
  return kNonlinearScalar;
}

void RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
             float* out) {
  ActiveNonlinear().rms_norm(x, weight, eps, rows, dim, out);
}

void GatedActivation(GateActivation act, const float* gate, const float* up, int64_t count,
                     float* out) {
  ActiveNonlinear().gated_activation(act, gate, up, count, out);
}

void AddInPlace(float* x, const float* y, int64_t count) {
  ActiveNonlinear().add(x, y, count);
}

void Exp(const float* x, int64_t count, float* out) {
  ActiveNonlinear().exp(x, count, out);
}

double LogSumExp(const float* logits, int64_t count) {
  double highest = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) return logits[i];
    if (logits[i] > highest) highest = logits[i];
  }
  if (std::isinf(highest) && highest > 0) return highest;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += std::exp(logits[i] - highest);
  return std::log(sum) + highest;
}

int64_t ArgMax(const float* values, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) {
    if (values[i] > values[best]) best = i;
  }
  return best;
}

bool AllFinite(const float* values, int64_t count) {
  int bad = 0;
  for (int64_t i = 0; i < count; ++i)
    bad |= !(std::fabs(values[i]) <= std::numeric_limits<float>::max());
  return bad == 0;
}

}  // namespace harrow
