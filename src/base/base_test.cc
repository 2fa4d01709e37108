#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/buffer.h"
#include "base/float16.h"
#include "base/mapped_file.h"
#include "base/rng.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "harrow/nearest.h"
#include "test_data.h"

namespace harrow {
namespace {

TEST(Status, PrefixesWhere) {
  const Status s = Corruption("{} bytes", 3).At("a.bin");
  EXPECT_EQ(s.ToString(), "corrupt file: a.bin: 3 bytes");
  EXPECT_TRUE(OkStatus().At("x").ok());
}

TEST(Result, MovesTheValueOut) {
  Result<std::vector<int>> r = std::vector<int>{1, 2};
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(std::move(r).value().size(), 2u);
}

TEST(Float16, EveryHalfRoundTrips) {
  for (uint32_t h = 0; h < 0x10000u; ++h) {
    const float f = F16ToF32(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_EQ(h & 0x7c00u, 0x7c00u);
      continue;
    }
    EXPECT_EQ(F32ToF16(f), h) << f;
  }
}

// The nearest half, ties to even, found by trying both neighbours in double.
TEST(Float16, RoundsToNearestEven) {
  Rng rng(7);
  for (int i = 0; i < 200000; ++i) {
    const float f =
        static_cast<float>(std::ldexp(rng.Uniform() * 2 - 1, static_cast<int>(rng.Below(45)) - 28));
    const uint16_t h = F32ToF16(f);
    const double got = F16ToF32(h);
    if (std::isinf(got)) {
      EXPECT_GE(std::fabs(f), 65520.0f);
      continue;
    }
    for (const int step : {-1, 1}) {
      const uint16_t other = static_cast<uint16_t>(h + step);
      const double neighbour = F16ToF32(other);
      if (std::isnan(neighbour) || std::isinf(neighbour)) continue;
      const double mine = std::fabs(got - f), its = std::fabs(neighbour - f);
      EXPECT_LE(mine, its) << f;
      if (mine == its && got != neighbour) {
        EXPECT_EQ(h & 1u, 0u) << f;
      }
    }
  }
}

TEST(Bf16, RoundsToNearestEvenAndKeepsSpecials) {
  EXPECT_EQ(F32ToBf16(1.0f), 0x3f80);
  EXPECT_EQ(F32ToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, even stays
  EXPECT_EQ(F32ToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, odd rounds up
  EXPECT_EQ(F32ToBf16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToF32(F32ToBf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(ThreadPool, RunsEachIndexOnceAndReportsItsSize) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    std::vector<std::atomic<int>> counts(static_cast<size_t>(threads));
    for (int round = 0; round < 2000; ++round) {
      pool.Run([&](int i) { counts[static_cast<size_t>(i)].fetch_add(1); });
    }
    for (const auto& count : counts)
      EXPECT_EQ(count.load(), 2000);
  }
}

std::atomic<bool> g_hold{false};
std::atomic<bool> g_held{false};

void HoldThread(int) {
  g_held.store(true);
  while (g_hold.load())
    sched_yield();
  g_held.store(false);
}

// A worker without a CPU, as beside other busy processes, is one that a signal handler keeps.
TEST(ThreadPool, OwnerDoesTheWorkOfAWorkerThatIsKeptAway) {
  ThreadPool pool(2);
  const pthread_t owner = pthread_self();
  std::atomic<pthread_t> worker{owner};
  while (pthread_equal(worker.load(), owner)) {
    pool.Run([&](int i) {
      if (i == 1) worker.store(pthread_self());
    });
  }
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = HoldThread;
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  g_hold.store(true);
  ASSERT_EQ(pthread_kill(worker.load(), SIGUSR1), 0);
  while (!g_held.load())
    sched_yield();
  std::vector<int> counts(2);
  for (int round = 0; round < 1000; ++round) {
    pool.Run([&](int i) {
      EXPECT_TRUE(pthread_equal(pthread_self(), owner));
      ++counts[static_cast<size_t>(i)];
    });
  }
  EXPECT_EQ(counts, std::vector<int>({1000, 1000}));
  g_hold.store(false);
  while (g_held.load())
    sched_yield();
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  // It joins in again.
  worker.store(owner);
  while (pthread_equal(worker.load(), owner)) {
    pool.Run([&](int i) {
      if (i == 1) worker.store(pthread_self());
    });
  }
}

TEST(ThreadPool, ParallelForCoversTheRangeOnce) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 7, 64, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
    pool.ParallelFor(count, 7, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        hits[static_cast<size_t>(i)].fetch_add(1);
    });
    for (const auto& hit : hits)
      EXPECT_EQ(hit.load(), 1);
  }
}

TEST(AlignedArray, IsZeroedAndOnACacheLine) {
  for (const uint64_t n : {0ull, 1ull, 1000ull, 3000000ull}) {
    AlignedArray<float> a(n);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 64, 0u);
    for (const float f : a)
      ASSERT_EQ(f, 0.0f);
  }
}

TEST(AlignedArray, MovesAndDoesNotCopy) {
  static_assert(!std::is_copy_constructible_v<AlignedArray<float>>);
  static_assert(!std::is_copy_assignable_v<AlignedArray<float>>);
  AlignedArray<float> a(3);
  a[1] = 5;
  AlignedArray<float> b(std::move(a));
  EXPECT_TRUE(a.empty());  // NOLINT: what moving leaves
  EXPECT_NE(a.Reserve(2), nullptr);
  a = std::move(b);
  EXPECT_TRUE(b.empty());  // NOLINT
  ASSERT_EQ(a.size(), 3u);
  EXPECT_EQ(a[1], 5.0f);
}

TEST(AtomicFile, NothingUnderTheFinalNameBeforeCommit) {
  testing::TempDir dir;
  const std::string path = dir.File("out");
  {
    auto file = AtomicFile::Create(path);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Write("half").ok());
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));  // the temporary went too
  ASSERT_TRUE(WriteFileAtomically(path, "whole").ok());
  auto text = ReadFile(path, 100);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "whole");
  EXPECT_EQ(ReadFile(path, 4).status().code(), StatusCode::kResourceLimit);
}

TEST(AtomicFile, MissingFolderIsAnIoErrorThatNamesIt) {
  const Status status = AtomicFile::Create("/nonexistent-folder/x").status();
  EXPECT_EQ(status.code(), StatusCode::kIoError);
  EXPECT_NE(status.message().find("/nonexistent-folder/x"), std::string::npos);
}

TEST(AtomicFile, WritersOfOnePathDoNotShareATemporary) {
  testing::TempDir dir;
  const std::string path = dir.File("out");
  auto first = AtomicFile::Create(path);
  auto second = AtomicFile::Create(path);
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE(first->Write("first").ok());
  ASSERT_TRUE(second->Write("second").ok());
  ASSERT_TRUE(second->Commit().ok());
  EXPECT_EQ(*ReadFile(path, 100), "second");
  ASSERT_TRUE(first->Commit().ok());
  EXPECT_EQ(*ReadFile(path, 100), "first");
}

TEST(AtomicFile, ReplacesRegularFilesOnly) {
  testing::TempDir dir;
  const std::string fifo = dir.File("fifo"), link = dir.File("link"), late = dir.File("late");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  ASSERT_EQ(::symlink("/dev/null", link.c_str()), 0);
  for (const std::string& path : {fifo, link, dir.path()}) {
    const Status status = WriteFileAtomically(path, "x");
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
    EXPECT_NE(status.message().find(path), std::string::npos);
  }
  auto file = AtomicFile::Create(late);
  ASSERT_TRUE(file.ok());
  ASSERT_EQ(::mkfifo(late.c_str(), 0600), 0);
  EXPECT_EQ(file->Commit().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_fifo(late));
}

// Would hang if opening waited for a writer.
TEST(MappedFile, AFifoIsRefused) {
  testing::TempDir dir;
  ASSERT_EQ(::mkfifo(dir.File("f").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(dir.File("f")).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(dir.File("f"), 10).status().code(), StatusCode::kInvalidArgument);
}

TEST(MappedFile, MapsAndNamesMissingFiles) {
  testing::TempDir dir;
  ASSERT_TRUE(WriteFileAtomically(dir.File("f"), "abc").ok());
  auto mapped = MappedFile::Open(dir.File("f"));
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ((*mapped)->bytes().size(), 3u);
  const Status missing = MappedFile::Open(dir.File("g")).status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("/g"), std::string::npos);
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), StatusCode::kInvalidArgument);
}

TEST(NearestName, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"sparsity", "pattern", "targets", "ignore", "M"};
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("insepct", "inspect"), 1u);
  EXPECT_EQ(NearestName("sparsty", names), "sparsity");
  EXPECT_EQ(NearestName("spasrity", names), "sparsity");
  EXPECT_EQ(NearestName("target", names), "targets");
  EXPECT_EQ(NearestName("m", names), "M");
  EXPECT_EQ(NearestName("colour", names), "");
  EXPECT_EQ(NearestName("", names), "M");
  EXPECT_EQ(NearestName(std::string(1000, 'a'), names), "");
  EXPECT_EQ(NearestName("sparsity", {}), "");
}

TEST(Rng, IsTheSameEverywhere) {
  Rng rng(1234567);
  EXPECT_EQ(rng.Next(), 6457827717110365317ull);  // splitmix64 reference vector for seed 1234567
  EXPECT_EQ(rng.Next(), 3203168211198807973ull);
}

}  // namespace
}  // namespace harrow
