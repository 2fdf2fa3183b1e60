// The arithmetic of one box along one axis, shared by the CPU and the GPU operator.
//
// A RoIAlign sample is a product of two one-dimensional linear interpolations, one along y and one
// along x (He et al., Mask R-CNN, section 3). Everything here therefore looks at one axis only.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define LABKIT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LABKIT_HOST_DEVICE inline
#endif

namespace labkit {

// What a call asks for, apart from the tensors.
struct Pooling {
  double spatial_scale;  // feature cells per image pixel
  int height, width;     // bins along y and x
  int sampling_ratio;    // samples per bin and axis; 0 or less: ceil(bin size)
  bool aligned;          // true: pixel centres at i + 0.5 (the half-pixel correction)
};

// True where `roi` (batch index, x1, y1, x2, y2) is finite and its image is one of the batch.
template <typename T>
LABKIT_HOST_DEVICE bool valid_roi(const T* roi, int64_t batch) {
  for (int i = 1; i < 5; ++i)
    if (!(roi[i] - roi[i] == T(0))) return false;  // infinite or not a number
  return roi[0] >= T(0) && roi[0] < static_cast<T>(batch);
}

// One axis of one box in feature cells: where it starts, how long a bin is, samples in a bin.
template <typename T>
struct Axis {
  T start, bin;
  int64_t samples;

  // Coordinate of sample `i` of bin `b`. The order of operations is torchvision's, so that samples
  // that lie on the border of the map fall on the same side of it.
  LABKIT_HOST_DEVICE T coordinate(int b, int64_t i) const {
    return start + b * bin + (static_cast<T>(i) + T(0.5)) * bin / static_cast<T>(samples);
  }
};

template <typename T>
LABKIT_HOST_DEVICE Axis<T> make_axis(T low, T high, int bins, const Pooling& pooling) {
  const T scale = static_cast<T>(pooling.spatial_scale);
  const T offset = pooling.aligned ? T(0.5) : T(0);
  const T start = low * scale - offset;
  T size = high * scale - offset - start;
  if (!pooling.aligned && size < T(1)) size = T(1);
  const T bin = size / static_cast<T>(bins);
  int64_t samples = pooling.sampling_ratio;
  if (samples <= 0) {
    // A box of negative size has no samples (the result is 0). The bound keeps the conversion to
    // an integer defined for absurdly large boxes; no map reaches it.
    const T wanted = std::ceil(bin);
    samples = wanted > T(0) ? static_cast<int64_t>(wanted < T(1e9) ? wanted : T(1e9)) : 0;
  }
  return {start, bin, samples};
}

// The two cells that a coordinate lies between, and their weights.
template <typename T>
struct Linear {
  int low, high;
  T weight_low, weight_high;
  bool inside;  // false: more than one cell off the map, the sample counts as 0
};

template <typename T>
LABKIT_HOST_DEVICE Linear<T> interpolate(T coordinate, int size) {
  if (!(coordinate >= T(-1) && coordinate <= static_cast<T>(size))) return {0, 0, T(0), T(0), false};
  if (coordinate < T(0)) coordinate = T(0);
  const int low = static_cast<int>(coordinate);
  if (low >= size - 1) return {size - 1, size - 1, T(1), T(0), true};
  const T fraction = coordinate - static_cast<T>(low);
  return {low, low + 1, T(1) - fraction, fraction, true};
}

// The samples of a bin that can lie on the map: [first, last). A box may be millions of cells
// larger than the map; without this bound its samples would be walked one by one.
struct Range {
  int64_t first, last;
};

template <typename T>
LABKIT_HOST_DEVICE Range samples_on_map(const Axis<T>& axis, int b, int size) {
  const T step = axis.bin / static_cast<T>(axis.samples);
  if (axis.samples <= 64 || !(step > T(0))) return {0, axis.samples};
  const T start = axis.start + b * axis.bin;
  const T count = static_cast<T>(axis.samples);
  // Two samples of slack on either side: `interpolate` decides, this only skips.
  T first = std::floor((T(-1) - start) / step) - T(2);
  T last = std::ceil((static_cast<T>(size) - start) / step) + T(2);
  first = first > T(0) ? (first < count ? first : count) : T(0);
  last = last > T(0) ? (last < count ? last : count) : T(0);
  return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

}  // namespace labkit
