// How many of the bytes that cross the link may be for nothing. Whoever sends an expert early asks
// for the price of doing so: nothing while the budget lasts, more uses that it must bring the more
// is owed, and the surer it is that the expert will be used, the fewer.
//
// How often experts of a kind are used before they lose their slots is learnt from those that were
// sent. A transfer is booked with what it is expected to waste when it is sent, and corrected when
// it has turned out: an expert that nobody wants loses its slot long afterwards, and by then as
// many again would be under way.
// Owned by a prefetcher. Nothing allocates after construction.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

class WasteBudget {
 public:
  // Transfers of which the same is known before they are made; an index.
  using Kind = int32_t;

  // most: share of all bytes sent, demanded ones too, that may be for nothing; 1: no limit.
  WasteBudget(double most, int32_t n_layers);

  // An expert that a router has named for certain.
  static constexpr Kind kCertain = 0;
  // One that is guessed to be used with probability `use` by the layer `ahead` layers from now on,
  // or that was just missed (ahead = 0; no `use`). forecast: uses that the cache's policy expects
  // when its layer's turn comes.
  static Kind kind(int32_t ahead, double use, double forecast);

  // Share of the transfers of this kind whose expert is used, as far as is known.
  double used_share(Kind kind) const;
  // Uses that an expert of this kind must bring beyond what it displaces.
  double price(Kind kind) const;

  // A token's first layer is planned.
  void token();
  // Amounts are in experts of mean size. Sent because it was asked for, hence used:
  void demand(double experts);
  // Sent early; returns what of it is expected to be for nothing, to be given back when it has
  // turned out.
  double send(Kind kind, double experts);
  void used(Kind kind, double experts, double expected);
  void wasted(double experts, double expected);

 private:
  struct Tally {
    double sent = 0;
    double used = 0;
    double prior = 0;  // share that are used, before any has been seen
  };
  void add(double experts);

  double most_;
  double unit_;                 // experts owed that cost a use for each expert expected for nothing
  double level_ = 0;            // what may be wasted, at most a unit; negative: what is owed
  std::vector<Tally> tallies_;  // [kinds]
};

}  // namespace tandem
