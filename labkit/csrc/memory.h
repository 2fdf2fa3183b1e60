// Memory for large results and for each thread's working set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace labkit {

constexpr size_t kHugePage = size_t(2) << 20;

// Fresh memory costs a page fault for every 4 KiB that is first written, and for a pooled result of
// hundreds of megabytes that is most of the operator's time. Asks Linux for 2 MiB pages instead;
// where the system refuses, nothing changes.
inline void ask_for_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & ~(kHugePage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Memory that grows and is aligned for vector loads; its content is lost when it grows.
template <typename T>
class Scratch {
 public:
  T* resize(size_t count) {
    if (count > capacity_) {
      const size_t wanted = count * sizeof(T);
      const size_t alignment = wanted >= kHugePage ? kHugePage : 64;
      const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<T*>(std::aligned_alloc(alignment, bytes)));
      if (!memory_) throw std::bad_alloc();
      ask_for_huge_pages(memory_.get(), bytes);
      capacity_ = count;
    }
    return memory_.get();
  }
  T* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace labkit
