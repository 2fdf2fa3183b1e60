// RoIAlign on the CPU, forward and backward.
//
// The channels are cut into chunks and a thread takes one chunk of one image at a time: it lays the
// chunk's whole map out as [cell][channel] in cache, walks over the image's boxes there, and moves
// on. So each element of the map is read from memory once, however many boxes overlap it, and no
// two threads write to the same element: the backward pass needs no atomics, and adds the boxes in
// their order, whatever the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <numeric>

#include "block.h"
#include "checks.h"
#include "memory.h"
#include "taps.h"

namespace labkit {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What one thread keeps from box to box.
template <typename T>
struct Workspace {
  Taps<T> y, x;
  TransposedTaps<T> columns;
  Scratch<T> map, region, bins, rows;
};

// The boxes of every image of the batch, in their order: order[first[n]] .. order[first[n + 1]].
struct ByImage {
  std::vector<int64_t> first, order;

  template <typename T>
  ByImage(const T* rois, int64_t count, int64_t batch) : first(batch + 1, 0), order(count) {
    for (int64_t k = 0; k < count; ++k) ++first[static_cast<int64_t>(rois[5 * k]) + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<int64_t> cursor(first.begin(), first.end() - 1);
    for (int64_t k = 0; k < count; ++k) order[cursor[static_cast<int64_t>(rois[5 * k])]++] = k;
  }
};

std::vector<int> indices(int64_t count) {
  std::vector<int> all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

template <typename T>
void fill_taps(const T* roi, const Pooling& pooling, int height, int width, Workspace<T>& work) {
  work.y.fill(make_axis(roi[2], roi[4], pooling.height, pooling), pooling.height, height);
  work.x.fill(make_axis(roi[1], roi[3], pooling.width, pooling), pooling.width, width);
}

// out[i, j] = sum_r sum_c A_y[i, r] A_x[j, c] F[r, c], for as many channels as fit (`Lanes`).
// `row_of[slot]` and `column_of[slot]` find the cell of F in a block that is `stride` cells wide.
template <typename T>
void pool_box(const T* block, const int* row_of, const int* column_of, int64_t stride,
              const Taps<T>& y, const Taps<T>& x, T* out) {
  constexpr int kVectors = Chunk<T>::kVectors;
  const auto* cells = reinterpret_cast<const Lanes<T>*>(block);
  auto* result = reinterpret_cast<Lanes<T>*>(out);
  for (size_t by = 0; by + 1 < y.begin.size(); ++by) {
    for (size_t bx = 0; bx + 1 < x.begin.size(); ++bx) {
      Lanes<T> sum[kVectors] = {};
      for (int ty = y.begin[by]; ty < y.begin[by + 1]; ++ty) {
        const Lanes<T>* row = cells + row_of[y.slot[ty]] * stride * kVectors;
        for (int tx = x.begin[bx]; tx < x.begin[bx + 1]; ++tx) {
          const Lanes<T>* cell = row + static_cast<int64_t>(column_of[x.slot[tx]]) * kVectors;
          const T weight = y.weight[ty] * x.weight[tx];
          for (int v = 0; v < kVectors; ++v) sum[v] += weight * cell[v];
        }
      }
      for (int v = 0; v < kVectors; ++v) *result++ = sum[v];
    }
  }
}

// The transpose: F[i, j] += sum over bins of A_y[bin_y, i] A_x[bin_x, j] grad[bin_y, bin_x], first
// along y into work.rows, then along x, so that every cell of F is read and written once a box.
template <typename T>
void unpool_box(const T* grad, int64_t stride, Workspace<T>& work, T* map) {
  constexpr int kVectors = Chunk<T>::kVectors;
  const int width = static_cast<int>(work.x.begin.size()) - 1;
  const size_t spread = work.y.lines.size() * width * kVectors;
  auto* rows = reinterpret_cast<Lanes<T>*>(work.rows.resize(spread * 64 / sizeof(T)));
  std::fill(rows, rows + spread, Lanes<T>{});
  const auto* bins = reinterpret_cast<const Lanes<T>*>(grad);
  for (size_t by = 0; by + 1 < work.y.begin.size(); ++by) {
    for (int tap = work.y.begin[by]; tap < work.y.begin[by + 1]; ++tap) {
      const Lanes<T>* from = bins + by * width * kVectors;
      Lanes<T>* to = rows + static_cast<int64_t>(work.y.slot[tap]) * width * kVectors;
      for (int v = 0; v < width * kVectors; ++v) to[v] += work.y.weight[tap] * from[v];
    }
  }
  work.columns.fill(work.x);
  auto* cells = reinterpret_cast<Lanes<T>*>(map);
  for (size_t r = 0; r < work.y.lines.size(); ++r) {
    const Lanes<T>* from = rows + r * width * kVectors;
    for (size_t c = 0; c < work.x.lines.size(); ++c) {
      Lanes<T>* cell = cells + (work.y.lines[r] * stride + work.x.lines[c]) * kVectors;
      for (int entry = work.columns.begin[c]; entry < work.columns.begin[c + 1]; ++entry) {
        const Lanes<T>* bin = from + static_cast<int64_t>(work.columns.bin[entry]) * kVectors;
        for (int v = 0; v < kVectors; ++v) cell[v] += work.columns.weight[entry] * bin[v];
      }
    }
  }
}

template <typename scalar>
Image<scalar> image_of(scalar* data, const Tensor& tensor, int64_t n) {
  return {data + n * tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

// Laying out the whole map pays off once the boxes read more cells than it has.
template <typename T>
bool whole_map_pays(const T* rois, const int64_t* begin, const int64_t* end, const Pooling& pooling,
                    int64_t height, int64_t width) {
  double cells = 0;
  for (const int64_t* k = begin; k < end; ++k) {
    const T* roi = rois + 5 * *k;
    const double h = std::abs(roi[4] - roi[2]) * pooling.spatial_scale + 2;
    const double w = std::abs(roi[3] - roi[1]) * pooling.spatial_scale + 2;
    cells += std::min(h, double(height)) * std::min(w, double(width));
  }
  return cells > double(height) * double(width);
}

template <typename scalar, typename T>
void forward(const Tensor& input, const Tensor& rois, const Pooling& pooling, Tensor& output) {
  const int64_t batch = input.size(0), channels = input.size(1);
  const int height = static_cast<int>(input.size(2)), width = static_cast<int>(input.size(3));
  const auto* features = static_cast<const scalar*>(input.const_data_ptr());
  const auto* boxes = static_cast<const T*>(rois.const_data_ptr());
  auto* pooled = static_cast<scalar*>(output.mutable_data_ptr());
  ask_for_huge_pages(pooled, output.numel() * sizeof(scalar));
  const ByImage by_image(boxes, rois.size(0), batch);
  const std::vector<int> all_rows = indices(height), all_columns = indices(width);
  const std::vector<int> bin_rows = indices(pooling.height), bin_columns = indices(pooling.width);
  constexpr int kChannels = Chunk<T>::kChannels;
  const int64_t chunks = (channels + kChannels - 1) / kChannels;
  // With fewer chunks than threads, several threads share the boxes of a chunk.
  const int64_t parts = std::max<int64_t>(1, torch::stable::get_num_threads() / (batch * chunks));

  torch::stable::parallel_for(0, batch * chunks * parts, 1, [&](int64_t task, int64_t last) {
    Workspace<T> work;
    T* tile = work.bins.resize(size_t(pooling.height) * pooling.width * kChannels);
    for (; task < last; ++task) {
      const int64_t n = task / (chunks * parts), first_channel = task / parts % chunks * kChannels;
      const int count = static_cast<int>(std::min<int64_t>(kChannels, channels - first_channel));
      const int64_t share = by_image.first[n + 1] - by_image.first[n], part = task % parts;
      const int64_t* begin = by_image.order.data() + by_image.first[n] + share * part / parts;
      const int64_t* end = by_image.order.data() + by_image.first[n] + share * (part + 1) / parts;
      if (begin == end) continue;
      const auto image = image_of(features, input, n).channels_from(first_channel);
      const bool whole = whole_map_pays(boxes, begin, end, pooling, height, width);
      if (whole)
        gather(image, count, all_rows, all_columns,
               work.map.resize(size_t(height) * width * kChannels));
      for (const int64_t* k = begin; k < end; ++k) {
        fill_taps(boxes + 5 * *k, pooling, height, width, work);
        const auto& rows = work.y.lines;
        const auto& columns = work.x.lines;
        if (whole) {
          pool_box(work.map.data(), rows.data(), columns.data(), width, work.y, work.x, tile);
        } else {
          T* region = work.region.resize(rows.size() * columns.size() * kChannels);
          gather(image, count, rows, columns, region);
          pool_box(region, all_rows.data(), all_columns.data(), columns.size(), work.y, work.x,
                   tile);
        }
        scatter(tile, count, bin_rows, bin_columns,
                image_of(pooled, output, *k).channels_from(first_channel));
      }
    }
  });
}

template <typename scalar, typename T>
void backward(const Tensor& grad, const Tensor& rois, const Pooling& pooling, Tensor& result) {
  const int64_t batch = result.size(0), channels = result.size(1);
  const int height = static_cast<int>(result.size(2)), width = static_cast<int>(result.size(3));
  const auto* pooled = static_cast<const scalar*>(grad.const_data_ptr());
  const auto* boxes = static_cast<const T*>(rois.const_data_ptr());
  auto* features = static_cast<scalar*>(result.mutable_data_ptr());
  ask_for_huge_pages(features, result.numel() * sizeof(scalar));
  const ByImage by_image(boxes, rois.size(0), batch);
  const std::vector<int> all_rows = indices(height), all_columns = indices(width);
  const std::vector<int> bin_rows = indices(pooling.height), bin_columns = indices(pooling.width);
  constexpr int kChannels = Chunk<T>::kChannels;
  const int64_t chunks = (channels + kChannels - 1) / kChannels;
  const size_t map_size = size_t(height) * width * kChannels;

  torch::stable::parallel_for(0, batch * chunks, 1, [&](int64_t task, int64_t last) {
    Workspace<T> work;
    T* map = work.map.resize(map_size);
    T* tile = work.bins.resize(size_t(pooling.height) * pooling.width * kChannels);
    for (; task < last; ++task) {
      const int64_t n = task / chunks, first_channel = task % chunks * kChannels;
      const int count = static_cast<int>(std::min<int64_t>(kChannels, channels - first_channel));
      std::fill(map, map + map_size, T(0));
      for (int64_t i = by_image.first[n]; i < by_image.first[n + 1]; ++i) {
        const int64_t k = by_image.order[i];
        fill_taps(boxes + 5 * k, pooling, height, width, work);
        gather(image_of(pooled, grad, k).channels_from(first_channel), count, bin_rows,
               bin_columns, tile);
        unpool_box(tile, width, work, map);
      }
      scatter(map, count, all_rows, all_columns,
              image_of(features, result, n).channels_from(first_channel));
    }
  });
}

// Calls function<scalar, T>(...): the tensor's type, and the type to accumulate in.
#define LABKIT_DISPATCH(type, function, ...)                                                \
  switch (type) {                                                                           \
    case ScalarType::Float:                                              \
      function<float, float>(__VA_ARGS__);                                                  \
      break;                                                                                \
    case ScalarType::Double:                                             \
      function<double, double>(__VA_ARGS__);                                                \
      break;                                                                                \
    case ScalarType::Half:                                               \
      function<Half, float>(__VA_ARGS__);                                \
      break;                                                                                \
    default:                                                                                \
      function<BFloat16, float>(__VA_ARGS__);                            \
  }

Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale,
                 int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio,
                 bool aligned) {
  const Pooling pooling =
      check_call(input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const Tensor boxes = torch::stable::contiguous(rois);
  check_boxes(boxes, input.size(0));
  Tensor output = empty_like_layout(
      input, {rois.size(0), input.size(1), pooled_height, pooled_width}, channels_last(input));
  if (output.numel() > 0)
    LABKIT_DISPATCH(input.scalar_type(), forward, input, boxes, pooling, output);
  return output;
}

Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale,
                          int64_t batch_size, int64_t channels, int64_t height, int64_t width,
                          int64_t sampling_ratio, bool aligned, bool channels_last) {
  const Pooling pooling = check_backward(grad, rois, spatial_scale, channels, height, width,
                                         sampling_ratio, aligned);
  const Tensor boxes = torch::stable::contiguous(rois);
  check_boxes(boxes, batch_size);
  Tensor result = empty_like_layout(grad, {batch_size, channels, height, width}, channels_last);
  if (result.numel() > 0)
    LABKIT_DISPATCH(grad.scalar_type(), backward, grad, boxes, pooling, result);
  return result;
}

}  // namespace
}  // namespace labkit

// The operators' schemas, for the GPU library as well. Autograd, the fake kernels and autocast are
// registered by labkit/ops/roi_align_compiled.py.
STABLE_TORCH_LIBRARY(labkit, m) {
  m.def(
      "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, "
      "SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch_size, "
      "SymInt channels, SymInt height, SymInt width, int sampling_ratio, bool aligned, "
      "bool channels_last) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(labkit, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&labkit::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&labkit::roi_align_backward));
}
