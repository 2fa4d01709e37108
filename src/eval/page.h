// Reports as one self-contained HTML page: text, plots (uPlot, embedded), heat-maps (SVG), tables.
// Viewing needs no network.
#ifndef HARROW_EVAL_PAGE_H_
#define HARROW_EVAL_PAGE_H_

#include <string>
#include <vector>

namespace harrow {

struct ChartPoint {
  std::string name;
  std::string group;  // points of a group share a colour and an entry in the legend
  double x = 0;
  double y = 0;
  bool dominated = false;  // drawn hollow
};
struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;
  bool log_y = false;  // points that are not positive are left out of a logarithmic axis
  bool join = false;   // lines through the points of a group, by ascending x
  std::vector<ChartPoint> points;
};

struct HeatCell {
  double value = 0;  // decides the colour, on a logarithmic scale; not positive: the palest
  std::string note;  // shown on hovering
};
struct HeatMap {
  std::string title;
  std::vector<std::string> columns;
  std::vector<std::string> rows;
  std::vector<std::vector<HeatCell>> cells;  // [rows, columns]; a row may be shorter
};

struct PageTable {
  std::string title;
  std::vector<std::vector<std::string>> rows;  // the first is the header
};

struct Page {
  std::string title;
  std::vector<std::string> paragraphs;
  std::vector<Chart> charts;
  std::vector<HeatMap> heat_maps;
  std::vector<PageTable> tables;
};
// All strings are plain text and may hold anything; they are escaped.
std::string RenderPage(const Page& page);

// Text for HTML content and double-quoted attributes.
std::string EscapeHtml(std::string_view text);
std::string HeatMapSvg(const HeatMap& map);

}  // namespace harrow

#endif  // HARROW_EVAL_PAGE_H_
