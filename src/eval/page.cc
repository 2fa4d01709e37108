#include "eval/page.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include <fmt/format.h>

namespace harrow {

// Generated from the files of these names (scripts/embed_files.cmake).
extern const std::string_view kEmbedded_uPlot_iife_min_js;
extern const std::string_view kEmbedded_uPlot_min_css;
extern const std::string_view kEmbedded_page_js;
extern const std::string_view kEmbedded_page_css;

namespace {

using Json = nlohmann::ordered_json;

Json ChartsJson(const std::vector<Chart>& charts) {
  Json all = Json::array();
  for (const Chart& chart : charts) {
    Json points = Json::array();
    for (const ChartPoint& point : chart.points) {
      if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
      points.push_back({{"name", point.name},
                        {"group", point.group},
                        {"x", point.x},
                        {"y", point.y},
                        {"dominated", point.dominated}});
    }
    all.push_back({{"title", chart.title},
                   {"x", chart.x_label},
                   {"y", chart.y_label},
                   {"logX", chart.log_x},
                   {"logY", chart.log_y},
                   {"join", chart.join},
                   {"points", points}});
  }
  return all;
}

// "</script>" or "<!--" in a string must not end the element.
std::string ScriptSafe(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string safe;
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

// White to dark red, t in [0, 1].
std::string HeatColour(double t) {
  const double l = 97 - 57 * t;
  return fmt::format("hsl(12,{:.0f}%,{:.0f}%)", 30 + 55 * t, l);
}

std::string TableHtml(const PageTable& table) {
  std::string html = fmt::format("<h2>{}</h2>\n<div class=\"wide\"><table class=\"sortable\">\n",
                                 EscapeHtml(table.title));
  for (size_t r = 0; r < table.rows.size(); ++r) {
    html += r == 0 ? "<thead><tr>" : r == 1 ? "<tbody><tr>" : "<tr>";
    for (const std::string& cell : table.rows[r]) {
      html += fmt::format("<{0}>{1}</{0}>", r == 0 ? "th" : "td", EscapeHtml(cell));
    }
    html += r == 0 ? "</tr></thead>\n" : "</tr>\n";
  }
  if (table.rows.size() > 1) html += "</tbody>";
  return html + "</table></div>\n";
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string html;
  for (const char c : text) {
    switch (c) {
      case '&': html += "&amp;"; break;
      case '<': html += "&lt;"; break;
      case '>': html += "&gt;"; break;
      case '"': html += "&quot;"; break;
      default: html += c;
    }
  }
  return html;
}

std::string HeatMapSvg(const HeatMap& map) {
  double least = INFINITY, most = 0;
  size_t longest = 0;
  for (const std::string& row : map.rows)
    longest = std::max(longest, row.size());
  for (const std::vector<HeatCell>& row : map.cells) {
    for (const HeatCell& cell : row) {
      if (!(cell.value > 0) || !std::isfinite(cell.value)) continue;
      least = std::min(least, cell.value);
      most = std::max(most, cell.value);
    }
  }
  constexpr int kCellWidth = 92, kCellHeight = 20;
  const int left = static_cast<int>(longest) * 7 + 16;
  const int top = 30;
  const int width = left + static_cast<int>(map.columns.size()) * kCellWidth + 8;
  const int height = top + static_cast<int>(map.rows.size()) * kCellHeight + 8;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" role=\"img\" font-family=\"monospace\" font-size=\"11\">\n",
      width, height);
  for (size_t c = 0; c < map.columns.size(); ++c) {
    svg += fmt::format("<text x=\"{}\" y=\"20\" text-anchor=\"middle\">{}</text>\n",
                       left + static_cast<int>(c) * kCellWidth + kCellWidth / 2,
                       EscapeHtml(map.columns[c]));
  }
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const int y = top + static_cast<int>(r) * kCellHeight;
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", left - 8, y + 14,
                       EscapeHtml(map.rows[r]));
    for (size_t c = 0; c < map.cells[r].size(); ++c) {
      const HeatCell& cell = map.cells[r][c];
      const double t = !(cell.value > 0) || !(most > least)
                           ? 0
                           : std::log(std::min(cell.value, most) / least) / std::log(most / least);
      const int x = left + static_cast<int>(c) * kCellWidth;
      svg += fmt::format(
          "<g><title>{}</title><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" "
          "fill=\"{}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\" "
          "fill=\"{}\">{:.3g}</text></g>\n",
          EscapeHtml(cell.note), x, y, kCellWidth - 1, kCellHeight - 1, HeatColour(t),
          x + kCellWidth / 2, y + 14, t > 0.75 ? "#fff" : "#000", cell.value);
    }
  }
  return svg + "</svg>\n";
}

std::string RenderPage(const Page& page) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>{0}</title>\n<style>{1}\n{2}</style></head>\n<body>\n<h1>{0}</h1>\n",
      EscapeHtml(page.title), kEmbedded_uPlot_min_css, kEmbedded_page_css);
  for (const std::string& paragraph : page.paragraphs)
    html += fmt::format("<p>{}</p>\n", EscapeHtml(paragraph));
  html += "<div id=\"charts\"></div>\n";
  for (const HeatMap& map : page.heat_maps) {
    html += fmt::format("<h2>{}</h2>\n<div class=\"wide\">{}</div>\n", EscapeHtml(map.title),
                        HeatMapSvg(map));
  }
  for (const PageTable& table : page.tables)
    html += TableHtml(table);
  html += fmt::format(
      "<script type=\"application/json\" id=\"chart-data\">{}</script>\n"
      "<script>{}</script>\n<script>{}</script>\n</body></html>\n",
      ScriptSafe(ChartsJson(page.charts)), kEmbedded_uPlot_iife_min_js, kEmbedded_page_js);
  return html;
}

}  // namespace harrow
