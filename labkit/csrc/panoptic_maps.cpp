// Panoptic maps: from the pixels of a PNG to segment ids, and the pixels that two maps share.
//
// Called by ctypes (labkit/datasets/coco/compiled_maps.py), so that it needs no torch. Callers check
// sizes; the NumPy versions of both functions are their tests.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#define LABKIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Undo the filter of one row of a PNG (its specification, section 9): a byte is stored as the
// difference to a prediction from the bytes to the left, above, and above to the left.
template <typename Predict>
void restore_row(const uint8_t* stored, const int32_t* ids_above, int32_t* ids, int64_t width,
                 Predict predict) {
  int left[3] = {0, 0, 0}, corner[3] = {0, 0, 0};
  for (int64_t x = 0; x < width; ++x) {
    for (int c = 0; c < 3; ++c) {
      const int above = ids_above[x] >> (8 * c) & 255;
      left[c] = (stored[3 * x + c] + predict(left[c], above, corner[c])) & 255;
      corner[c] = above;
    }
    ids[x] = left[0] | left[1] << 8 | left[2] << 16;
  }
}

// Paeth's filter: the neighbour nearest to left + above - corner.
int paeth(int left, int above, int corner) {
  const int to_left = std::abs(above - corner), to_above = std::abs(left - corner);
  const int to_corner = std::abs(left + above - 2 * corner);
  if (to_left <= to_above && to_left <= to_corner) return left;
  return to_above <= to_corner ? above : corner;
}

constexpr int SLOTS = 4096, MAX_PAIRS = SLOTS / 2;

// Areas of pairs of ids: a hash table with linear probing, at most half full.
struct PairTable {
  int64_t* pairs;
  int64_t* areas;
  int64_t size = 0;
  int16_t rows[SLOTS] = {};  // row in `pairs` and `areas` plus one; 0 is free

  // Add a run of pixels; false if the table is full.
  bool add(int32_t a, int32_t b, int64_t pixels) {
    const int64_t pair = a * (int64_t{1} << 32) + static_cast<uint32_t>(b);
    uint64_t slot = pair * 0x9E3779B97F4A7C15u >> 52;  // the top 12 bits: 0..SLOTS - 1
    while (rows[slot] && pairs[rows[slot] - 1] != pair) slot = (slot + 1) % SLOTS;
    if (!rows[slot]) {
      if (size == MAX_PAIRS) return false;
      pairs[size] = pair;
      areas[size] = 0;
      rows[slot] = static_cast<int16_t>(++size);
    }
    areas[rows[slot] - 1] += pixels;
    return true;
  }
};

}  // namespace

// Ids (height, width) of the inflated rows (a filter byte, then RGB) of an 8-bit RGB PNG; false if
// a filter is unknown.
LABKIT_EXPORT bool labkit_png_ids(const uint8_t* rows, int64_t height, int64_t width,
                                  int32_t* ids) {
  const std::vector<int32_t> zeros(width);
  const int32_t* above = zeros.data();
  for (int64_t y = 0; y < height; ++y, rows += 1 + 3 * width, above = ids, ids += width) {
    const uint8_t* stored = rows + 1;
    switch (rows[0]) {
      case 0:
        restore_row(stored, above, ids, width, [](int, int, int) { return 0; });
        break;
      case 1:
        restore_row(stored, above, ids, width, [](int left, int, int) { return left; });
        break;
      case 2:
        restore_row(stored, above, ids, width, [](int, int up, int) { return up; });
        break;
      case 3:
        restore_row(stored, above, ids, width, [](int left, int up, int) { return (left + up) / 2; });
        break;
      case 4:
        restore_row(stored, above, ids, width, paeth);
        break;
      default:
        return false;
    }
  }
  return true;
}

// Pairs of ids (first map's in the upper half) that share pixels, and how many; `pairs` and `areas`
// have room for MAX_PAIRS. Returns their number, or -1 if there are more.
LABKIT_EXPORT int64_t labkit_shared_areas(const int32_t* a, const int32_t* b, int64_t pixels,
                                          int64_t* pairs, int64_t* areas) {
  constexpr int64_t CHUNK = 512;
  uint8_t changed[CHUNK];  // found first, chunk by chunk, because that takes vector instructions
  PairTable table{pairs, areas};
  int64_t start = 0;  // of the run of equal pairs
  for (int64_t begin = 1; begin < pixels; begin += CHUNK) {
    const int64_t size = std::min(CHUNK, pixels - begin);
    for (int64_t i = 0; i < size; ++i)
      changed[i] = (a[begin + i] != a[begin + i - 1]) | (b[begin + i] != b[begin + i - 1]);
    const uint8_t *at = changed, *end = changed + size;
    for (; (at = static_cast<const uint8_t*>(std::memchr(at, 1, end - at))); ++at) {
      const int64_t next = begin + (at - changed);
      if (!table.add(a[start], b[start], next - start)) return -1;
      start = next;
    }
  }
  if (pixels > start && !table.add(a[start], b[start], pixels - start)) return -1;
  return table.size;
}
