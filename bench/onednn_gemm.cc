#include "onednn_gemm.h"

#if HARROW_BENCH_ONEDNN
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <dnnl.hpp>
#include <thread>
#include <vector>
#endif

namespace harrow {
namespace {

#if HARROW_BENCH_ONEDNN
using dnnl::memory;

class Gemm : public OneDnnGemm {
 public:
  Gemm(bool int8, int64_t m, int64_t n, int64_t k, int64_t stack_bytes, int threads)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    omp_set_num_threads(threads);
    using Type = memory::data_type;
    using Tag = memory::format_tag;
    const Type weight_type = int8 ? Type::s8 : Type::bf16;
    const memory::desc x({m, k}, int8 ? Type::u8 : Type::bf16, Tag::ab);
    const memory::desc any({k, n}, weight_type, Tag::any);
    const memory::desc y({m, n}, Type::f32, Tag::ab);
    dnnl::primitive_attr attributes;
    if (int8) attributes.set_output_scales(0, {1.0f / 128});
    const dnnl::matmul::primitive_desc plan({x, any, y}, attributes, engine_);
    product_ = dnnl::matmul(plan);
    x_ = Filled(x);
    y_ = Filled(y);
    // [k, n] with k running fastest is W [n, k].
    rows_ = Filled(memory::desc({k, n}, weight_type, Tag::ba));
    const int64_t bytes = n * k * (int8 ? 1 : 2);
    for (int64_t i = 0; i < std::max<int64_t>(2, stack_bytes / bytes); ++i)
      weights_.push_back(Filled(plan.weights_desc()));
    lay_out_ = dnnl::reorder(rows_, weights_[0]);
  }

  double Seconds() override { return Time(false); }
  double SecondsFromRows() override { return Time(true); }

 private:
  memory Filled(const memory::desc& desc) {
    memory filled(desc, engine_);
    std::memset(filled.get_data_handle(), 1, desc.get_size());
    return filled;
  }
  double Time(bool from_rows) {
    const auto begin = std::chrono::steady_clock::now();
    for (memory& weight : weights_) {
      if (from_rows) lay_out_.execute(stream_, rows_, weight);
      product_.execute(stream_,
                       {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, weight}, {DNNL_ARG_DST, y_}});
    }
    stream_.wait();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    // OpenMP's threads go on spinning for a while, beside whatever is timed next.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return taken.count() / static_cast<double>(weights_.size());
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  dnnl::reorder lay_out_;
  memory x_, y_, rows_;
  std::vector<memory> weights_;
};
#endif

}  // namespace

std::unique_ptr<OneDnnGemm> NewOneDnnGemm([[maybe_unused]] bool int8, [[maybe_unused]] int64_t m,
                                          [[maybe_unused]] int64_t n, [[maybe_unused]] int64_t k,
                                          [[maybe_unused]] int64_t stack_bytes,
                                          [[maybe_unused]] int threads) {
#if HARROW_BENCH_ONEDNN
  try {
    return std::make_unique<Gemm>(int8, m, n, k, stack_bytes, threads);
  } catch (const dnnl::error&) {
  }
#endif
  return nullptr;
}

}  // namespace harrow
