#include "compress/methods/method.h"

namespace harrow {

#define HARROW_METHOD(name, make) std::unique_ptr<Method> make(OptionReader* options);
#include "compress/methods.def"
#undef HARROW_METHOD

namespace {
constexpr MethodInfo kMethods[] = {
#define HARROW_METHOD(name, make) {name, make},
#include "compress/methods.def"
#undef HARROW_METHOD
};
}  // namespace

std::span<const MethodInfo> AllMethods() {
  return kMethods;
}

const MethodInfo* FindMethod(std::string_view name) {
  for (const MethodInfo& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace harrow
