// The break-even table as Markdown.
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "formats/linear_weight.h"
#include "harrow/doctor.h"

namespace harrow {
namespace {

constexpr double kGoal = 0.95;   // law 1
constexpr double kFloor = 0.88;  // where expansion's own instructions forbid the goal

const char* Noise(const BreakEven& row) {
  return row.Noisy() ? "~" : "";
}

std::string CellText(const BreakEven& row, bool stored) {
  const std::string ratio = fmt::format("{:.2f}", row.ratio);
  const char* const noise = Noise(row);
  if (!stored) return fmt::format("({}{})", ratio, noise);
  if (row.ratio < kFloor) return fmt::format("**{}**{}", ratio, noise);
  if (row.ratio < kGoal) return fmt::format("*{}*{}", ratio, noise);
  return ratio + noise;
}

std::string Sparsity(double density) {
  return fmt::format("{:.0f} %", 100 * (1 - density));
}

}  // namespace

std::string BreakEvenMarkdown(const MachineProfile& profile) {
  // format and density in the order of measuring -> M -> row
  std::vector<std::pair<std::string, double>> lines;
  std::map<std::pair<std::string, double>, std::map<int64_t, const BreakEven*>> cells;
  std::set<int64_t> ms;
  std::map<std::string, int64_t> dense_bytes;
  for (const BreakEven& row : profile.break_even) {
    if (row.format == row.dense) dense_bytes[row.format] = row.bytes;
  }
  const auto stored = [&](const BreakEven& row) {
    const auto dense = dense_bytes.find(row.dense);
    if (row.format == row.dense || dense == dense_bytes.end()) return true;
    const Result<WeightSpec> spec = ParseSpec(row.format);
    return !spec.ok() ||  // of another build
           WorthStoring(*spec, static_cast<uint64_t>(row.bytes),
                        static_cast<uint64_t>(dense->second));
  };
  size_t counted = 0;
  size_t below_goal = 0;
  size_t below_floor = 0;
  size_t noisy = 0;
  for (const BreakEven& row : profile.break_even) {
    const std::pair<std::string, double> line(row.format, row.density);
    if (cells.count(line) == 0) lines.push_back(line);
    cells[line][row.m] = &row;
    ms.insert(row.m);
    noisy += row.Noisy() ? 1 : 0;
    if (!stored(row)) continue;
    ++counted;
    below_goal += row.ratio < kGoal ? 1 : 0;
    below_floor += row.ratio < kFloor ? 1 : 0;
  }

  std::string text = "# Break-even table\n\n";
  text += fmt::format(
      "Written by `harrow doctor -o md` from a machine profile (docs/machine_profile.md).\n\n"
      "{}, {} threads of {} CPUs, {}, Harrow {}; weights of {}x{} from memory; measured {} in "
      "{:.0f} s{}.\n\n",
      profile.key.cpu, profile.threads, profile.key.cpus, profile.key.isa, profile.key.version,
      profile.rows, profile.cols, profile.measured, profile.seconds,
      profile.quick.value_or(false) ? ", with --quick" : "");
  text +=
      "Speed of the kernel that the dispatcher takes under this profile, relative to Harrow's "
      "fastest dense kernel of the\nsame precision and M (median of interleaved rounds). "
      "*Slanted*: below 0.95. **Bold**: below 0.88. `~`: the middle half\nof the rounds spreads "
      "over more than 10 %, or the ratio of median times is another by as much: the figure may be "
      "far off. Dense rows:\nagainst the fastest of several dense kernels, `~` by their own times. "
      "(In parentheses): not enough smaller than dense\n(a twentieth; two fifths for index and "
      "bf16 16x1, three fifths for i8 16x1): stored so only by name.\n\n";
  text +=
      fmt::format("{} cells; of {} that are stored so, {} below 0.95, of those {} below 0.88.\n\n",
                  profile.break_even.size(), counted, below_goal, below_floor);
  if (noisy > 0) {
    text += fmt::format(
        "{} cells are noisy (`~`): measure again while the machine does nothing else.\n\n", noisy);
  }

  text += "| format | zeros |";
  for (const int64_t m : ms)
    text += fmt::format(" M {} |", m);
  text += "\n|---|---:|";
  for (size_t i = 0; i < ms.size(); ++i)
    text += "---:|";
  text += "\n";
  for (const auto& line : lines) {
    text += fmt::format("| {} | {} |", line.first, Sparsity(line.second));
    for (const int64_t m : ms) {
      const auto& row = cells[line];
      const auto cell = row.find(m);
      text += cell == row.end()
                  ? " |"
                  : fmt::format(" {} |", CellText(*cell->second, stored(*cell->second)));
    }
    text += "\n";
  }

  text +=
      "\n## The dense opponents\n\n| format | M | kernel | us | GFLOP/s | % of roof |\n"
      "|---|---:|---|---:|---:|---:|\n";
  for (const BreakEven& row : profile.break_even) {
    if (row.format != row.dense) continue;
    const double flops = 2.0 * static_cast<double>(row.m) * static_cast<double>(profile.rows) *
                         static_cast<double>(profile.cols);
    text += fmt::format("| {} | {} | {} | {:.0f}{} | {:.0f} | {:.0f} |\n", row.format, row.m,
                        row.dense_kernel, row.dense_us, Noise(row), flops / row.dense_us * 1e-3,
                        100 * row.roof * row.us / row.dense_us);
  }
  text +=
      "\n## Decoding: one token\n\n| format | zeros | us | % of roof | x dense | kernel |\n"
      "|---|---:|---:|---:|---:|---|\n";
  for (const BreakEven& row : profile.break_even) {
    if (row.m != 1) continue;
    text += fmt::format("| {} | {} | {:.0f} | {:.0f} | {:.2f}{} | {} |\n", row.format,
                        Sparsity(row.density), row.us, 100 * row.roof, row.ratio, Noise(row),
                        row.kernel);
  }
  return text;
}

}  // namespace harrow
