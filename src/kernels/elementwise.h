// Norms and gates, float32, row by row.
#ifndef HARROW_KERNELS_ELEMENTWISE_H_
#define HARROW_KERNELS_ELEMENTWISE_H_

#include <cstdint>

namespace harrow {

// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight. x, out [rows, dim]; weight [dim]; out may be
// x. Source: Zhang and Sennrich, arXiv 1910.07467 eq. 4; eps inside the root as in transformers'
// LlamaRMSNorm.
void RmsNorm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim, float* out);

enum class GateActivation : uint8_t { kSilu, kRelu, kGeluTanh };
// out[i] = act(gate[i]) * up[i]; out may alias either.
void GatedActivation(GateActivation act, const float* gate, const float* up, int64_t count,
                     float* out);

// x[i] += y[i]
void AddInPlace(float* x, const float* y, int64_t count);

// max, then log(sum(exp(logits - max))) + max, accumulated in double.
double LogSumExp(const float* logits, int64_t count);
int64_t ArgMax(const float* values, int64_t count);  // the lowest index wins ties

}  // namespace harrow

#endif  // HARROW_KERNELS_ELEMENTWISE_H_
