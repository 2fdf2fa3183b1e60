// Blocks of feature cells in cache: channels innermost and padded, whatever the tensor's layout.
#pragma once

#include <cstdint>
#include <vector>

namespace labkit {

// The channels that a thread works on at a time. A whole map of this many channels fits the
// second or third level of cache, where the boxes then read it again and again.
template <typename T>
using Lanes __attribute__((vector_size(64))) = T;

template <typename T>
struct Chunk {
  static constexpr int kVectors = 2;
  static constexpr int kChannels = kVectors * 64 / static_cast<int>(sizeof(T));
};

// An image of a tensor (C, H, W) with any strides, in elements.
template <typename scalar>
struct Image {
  scalar* data;
  int64_t channel, row, column;

  Image channels_from(int64_t c) const { return {data + c * channel, channel, row, column}; }
};

constexpr int kTile = 16;  // cells of a row that are transposed together: one cache line of floats

// Calls visit(element, cell, channel) for `channels` channels of the cells rows x columns; `cell`
// counts them in row-major order. Tiles keep both sides of a transposition in cache.
template <typename scalar, typename Visit>
inline void for_cells(const Image<scalar>& image, int channels, const std::vector<int>& rows,
                      const std::vector<int>& columns, const Visit& visit) {
  const int width = static_cast<int>(columns.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    scalar* row = image.data + rows[r] * image.row;
    const int64_t first = static_cast<int64_t>(r) * width;
    if (image.channel == 1) {
      for (int x = 0; x < width; ++x) {
        scalar* cell = row + columns[x] * image.column;
        for (int c = 0; c < channels; ++c) visit(cell[c], first + x, c);
      }
    } else {
      for (int tile = 0; tile < width; tile += kTile) {
        const int end = tile + kTile < width ? tile + kTile : width;
        for (int c = 0; c < channels; ++c) {
          scalar* plane = row + c * image.channel;
          for (int x = tile; x < end; ++x) visit(plane[columns[x] * image.column], first + x, c);
        }
      }
    }
  }
}

// Copies cells of an image into a block [cell][channel]; channels beyond the image's become 0.
template <typename T, typename scalar>
inline void gather(const Image<const scalar>& image, int channels, const std::vector<int>& rows,
                   const std::vector<int>& columns, T* block) {
  constexpr int kChannels = Chunk<T>::kChannels;
  if (channels < kChannels) {
    const int64_t cells = static_cast<int64_t>(rows.size() * columns.size());
    for (int64_t i = 0; i < cells * kChannels; ++i) block[i] = T(0);
  }
  for_cells(image, channels, rows, columns, [block](const scalar& element, int64_t cell, int c) {
    block[cell * kChannels + c] = static_cast<T>(element);
  });
}

// Copies a block [cell][channel] into cells of an image, the other way round.
template <typename T, typename scalar>
inline void scatter(const T* block, int channels, const std::vector<int>& rows,
                    const std::vector<int>& columns, const Image<scalar>& image) {
  for_cells(image, channels, rows, columns, [block](scalar& element, int64_t cell, int c) {
    element = static_cast<scalar>(block[cell * Chunk<T>::kChannels + c]);
  });
}

}  // namespace labkit
