// Where weights come from: names, dtypes, shapes and bytes. Knows no model family.
#ifndef HARROW_CHECKPOINT_TENSOR_SOURCE_H_
#define HARROW_CHECKPOINT_TENSOR_SOURCE_H_

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/tensor.h"

namespace harrow {

// Immutable; safe to share between threads. Views own a reference to the mapped file.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Sorted by name.
  virtual const std::vector<std::string>& names() const = 0;
  virtual bool Contains(const std::string& name) const = 0;
  // NotFound names the tensor and the file or folder searched.
  virtual Result<TensorView> Find(const std::string& name) const = 0;
  // Bytes of the files behind it.
  virtual uint64_t file_bytes() const = 0;
  // Lets the pages of a tensor go (see MappedFile::DropResident).
  virtual void DropResident(const TensorView& view) const = 0;
};

}  // namespace harrow

#endif  // HARROW_CHECKPOINT_TENSOR_SOURCE_H_
