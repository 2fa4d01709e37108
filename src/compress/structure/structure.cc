#include "compress/structure/structure.h"

namespace harrow {

#define HARROW_STRUCTURE(name, make) std::unique_ptr<StructureMethod> make(OptionReader* options);
#include "compress/structure.def"
#undef HARROW_STRUCTURE

namespace {
constexpr StructureInfo kMethods[] = {
#define HARROW_STRUCTURE(name, make) {name, make},
#include "compress/structure.def"
#undef HARROW_STRUCTURE
};
}  // namespace

std::span<const StructureInfo> AllStructureMethods() {
  return kMethods;
}

const StructureInfo* FindStructureMethod(std::string_view name) {
  for (const StructureInfo& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace harrow
