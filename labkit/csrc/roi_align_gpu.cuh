// RoIAlign on a GPU: one thread block a bin, channels across the threads.
//
// Maps are channels-last, so neighbouring threads read neighbouring addresses, and a sample's
// weights are the same for all of them. Nothing here needs torch.
#pragma once

#include <cmath>

#include "box.h"
#include "roi_align_gpu.h"

namespace labkit {

constexpr int kThreads = 64;  // threads of a block
constexpr int kPerThread = 4;  // channels a thread keeps in registers while it walks the samples

// A bin's place in the batch, and its samples along both axes.
template <typename T>
struct Bin {
  Axis<T> y, x;
  int by, bx;
  int64_t image;
  bool valid;
};

template <typename T>
__device__ __forceinline__ Bin<T> make_bin(int64_t index, const T* rois, const Pooling& pooling,
                                           int64_t batch) {
  const T* roi = rois + 5 * (index / (int64_t(pooling.height) * pooling.width));
  Bin<T> bin;
  bin.bx = static_cast<int>(index % pooling.width);
  bin.by = static_cast<int>(index / pooling.width % pooling.height);
  bin.valid = valid_roi(roi, batch);
  bin.image = bin.valid ? static_cast<int64_t>(roi[0]) : 0;
  bin.y = make_axis(roi[2], roi[4], pooling.height, pooling);
  bin.x = make_axis(roi[1], roi[3], pooling.width, pooling);
  return bin;
}

// Calls visit(y, x) for the samples of a bin that lie on the map.
template <typename T, typename Visit>
__device__ __forceinline__ void for_samples(const Bin<T>& bin, int height, int width,
                                            const Visit& visit) {
  const Range rows = samples_on_map(bin.y, bin.by, height);
  const Range columns = samples_on_map(bin.x, bin.bx, width);
  for (int64_t iy = rows.first; iy < rows.last; ++iy) {
    const Linear<T> y = interpolate(bin.y.coordinate(bin.by, iy), height);
    if (!y.inside) continue;
    for (int64_t ix = columns.first; ix < columns.last; ++ix) {
      const Linear<T> x = interpolate(bin.x.coordinate(bin.bx, ix), width);
      if (x.inside) visit(y, x);
    }
  }
}

template <typename T>
__device__ __forceinline__ T samples_of(const Bin<T>& bin) {
  const T count = static_cast<T>(bin.y.samples) * static_cast<T>(bin.x.samples);
  return count > T(1) ? count : T(1);
}

// features (batch, height, width, channels) -> pooled (K, pooled_height, pooled_width, channels).
// A box that is not finite or names no image of the batch gives NaN: an error would make every
// call wait for the GPU.
template <typename scalar, typename T>
__global__ void pool(const scalar* features, const T* rois, Pooling pooling, Map map,
                     scalar* pooled) {
  const int channels = map.channels, height = map.height, width = map.width;
  const Bin<T> bin = make_bin(int64_t(blockIdx.x), rois, pooling, map.batch);
  const scalar* image = features + bin.image * height * width * channels;
  scalar* out = pooled + int64_t(blockIdx.x) * channels;
  const T share = T(1) / samples_of(bin);
  for (int first = threadIdx.x; first < channels; first += kThreads * kPerThread) {
    T sum[kPerThread] = {};
    if (bin.valid) {
      for_samples(bin, height, width, [&](const Linear<T>& y, const Linear<T>& x) {
        const scalar* upper = image + int64_t(y.low) * width * channels;
        const scalar* lower = image + int64_t(y.high) * width * channels;
        const int64_t left = int64_t(x.low) * channels, right = int64_t(x.high) * channels;
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
          const int c = first + i * kThreads;
          if (c < channels)
            sum[i] += y.weight_low * (x.weight_low * static_cast<T>(upper[left + c]) +
                                      x.weight_high * static_cast<T>(upper[right + c])) +
                      y.weight_high * (x.weight_low * static_cast<T>(lower[left + c]) +
                                       x.weight_high * static_cast<T>(lower[right + c]));
        }
      });
    }
    for (int i = 0; i < kPerThread; ++i) {
      const int c = first + i * kThreads;
      if (c < channels)
        out[c] = static_cast<scalar>(bin.valid ? sum[i] * share : static_cast<T>(NAN));
    }
  }
}

// The transpose. Boxes overlap, so cells are added to atomically, in an order that is not fixed:
// the last bits of the result differ from run to run.
template <typename scalar, typename T>
__global__ void unpool(const scalar* grad, const T* rois, Pooling pooling, Map map, T* sum) {
  const int channels = map.channels, height = map.height, width = map.width;
  const Bin<T> bin = make_bin(int64_t(blockIdx.x), rois, pooling, map.batch);
  if (!bin.valid) return;
  T* image = sum + bin.image * height * width * channels;
  const scalar* from = grad + int64_t(blockIdx.x) * channels;
  const T share = T(1) / samples_of(bin);
  for (int c = threadIdx.x; c < channels; c += kThreads) {
    const T value = static_cast<T>(from[c]) * share;
    for_samples(bin, height, width, [&](const Linear<T>& y, const Linear<T>& x) {
      T* upper = image + int64_t(y.low) * width * channels + c;
      T* lower = image + int64_t(y.high) * width * channels + c;
      const int64_t left = int64_t(x.low) * channels, right = int64_t(x.high) * channels;
      atomicAdd(upper + left, y.weight_low * x.weight_low * value);
      atomicAdd(upper + right, y.weight_low * x.weight_high * value);
      atomicAdd(lower + left, y.weight_high * x.weight_low * value);
      atomicAdd(lower + right, y.weight_high * x.weight_high * value);
    });
  }
}

}  // namespace labkit
