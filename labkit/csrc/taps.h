// One axis of one box as a sparse matrix: A_y or A_x of the separable form out = A_y . F . A_x^T.
#pragma once

#include <cstdint>
#include <vector>

#include "box.h"

namespace labkit {

// Row b of the matrix holds the taps of bin b: taps begin[b] .. begin[b + 1], each a weight and a
// slot. `lines[slot]` is the row (or column) of the feature map; only touched lines have a slot, so
// a large box with few samples stays small. The vectors keep their memory from box to box.
template <typename T>
struct Taps {
  std::vector<int> lines, begin, slot;
  std::vector<T> weight;

  void fill(const Axis<T>& axis, int bins, int size) {
    lines.clear();
    begin.clear();
    slot.clear();
    weight.clear();
    const T share = T(1) / static_cast<T>(axis.samples > 0 ? axis.samples : 1);
    for (int b = 0; b < bins; ++b) {
      begin.push_back(static_cast<int>(slot.size()));
      const Range range = samples_on_map(axis, b, size);
      for (int64_t i = range.first; i < range.last; ++i) {
        const Linear<T> linear = interpolate(axis.coordinate(b, i), size);
        if (!linear.inside) continue;
        add(linear.low, linear.weight_low * share);
        if (linear.weight_high != T(0)) add(linear.high, linear.weight_high * share);
      }
    }
    begin.push_back(static_cast<int>(slot.size()));
  }

 private:
  // Neighbouring samples share cells: summing their weights here saves reading the cell twice.
  // Samples advance along the axis, so a cell seen before is among the last few.
  void add(int line, T share) {
    const int first = begin.back(), end = static_cast<int>(slot.size());
    for (int tap = end - 1; tap >= first && tap >= end - 3; --tap) {
      if (lines[slot[tap]] == line) {
        weight[tap] += share;
        return;
      }
    }
    slot.push_back(slot_of(line));
    weight.push_back(share);
  }

  int slot_of(int line) {
    const int end = static_cast<int>(lines.size());
    for (int s = end - 1; s >= 0 && s >= end - 4; --s)
      if (lines[s] == line) return s;
    lines.push_back(line);
    return end;
  }
};

// The same matrix by columns: entries begin[s] .. begin[s + 1] are the bins that slot s feeds.
template <typename T>
struct TransposedTaps {
  std::vector<int> begin, bin, cursor;
  std::vector<T> weight;

  void fill(const Taps<T>& taps) {
    begin.assign(taps.lines.size() + 1, 0);
    for (const int s : taps.slot) ++begin[s + 1];
    for (size_t s = 1; s < begin.size(); ++s) begin[s] += begin[s - 1];
    cursor.assign(begin.begin(), begin.end());
    bin.resize(taps.slot.size());
    weight.resize(taps.slot.size());
    for (size_t b = 0; b + 1 < taps.begin.size(); ++b) {
      for (int tap = taps.begin[b]; tap < taps.begin[b + 1]; ++tap) {
        const int entry = cursor[taps.slot[tap]]++;
        bin[entry] = static_cast<int>(b);
        weight[entry] = taps.weight[tap];
      }
    }
  }
};

}  // namespace labkit
