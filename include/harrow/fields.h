// How option and report structs list their fields.
//
// Each struct has one template member `Visit(v)` that calls v(name, field, help) for every field in
// order, or v(name, field, help, Limits{...}) for an option with bounds. Command-line flags (with
// '-' for '_'), printed rows, JSON keys and the field tables of docs/cli.md all come from that
// list.
#ifndef HARROW_FIELDS_H_
#define HARROW_FIELDS_H_

namespace harrow {

// Inclusive bounds of a numeric option.
struct Limits {
  double min = 0;
  double max = 0;
};

}  // namespace harrow

#endif  // HARROW_FIELDS_H_
