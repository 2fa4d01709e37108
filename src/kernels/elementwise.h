// Norms, gates and reductions over float32 rows.
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
// Sources: SiLU and tanh-GELU, Hendrycks and Gimpel, arXiv 1606.08415; gating, Shazeer, arXiv
// 2002.05202.
void GatedActivation(GateActivation act, const float* gate, const float* up, int64_t count,
                     float* out);

// x[i] += y[i]
void AddInPlace(float* x, const float* y, int64_t count);

// out[i] = exp(x[i]), relative error at most 3 * 2^-24 for x in [-87.3, 88.3]. Below that the
// result is 0 (the true value is under the smallest normal float), above it is exp(88.3). NaN stays
// NaN. out may be x. This is the exponential inside Attention and GatedActivation.
void Exp(const float* x, int64_t count, float* out);

// max, then log(sum(exp(logits - max))) + max, accumulated in double. NaN if any logit is.
double LogSumExp(const float* logits, int64_t count);
int64_t ArgMax(const float* values, int64_t count);  // the lowest index wins ties
// Whether no value is NaN or infinite.
bool AllFinite(const float* values, int64_t count);

}  // namespace harrow

#endif  // HARROW_KERNELS_ELEMENTWISE_H_
