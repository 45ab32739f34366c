import Base
import Testing

@Suite struct ArenaTests {
  @Test func takesAlignedDisjointRanges() {
    let sizes = [1, 63, 64, 65, 4095, 4096, 4097, 100_000, 8]
    let total = sizes.reduce(0) { $0 + Arena.cost($1) }
    withArena(total) { arena in
      var end = arena.base
      for size in sizes {
        let start = arena.take(size)
        #expect(start >= end)
        #expect(UInt(bitPattern: start) % (size >= 4096 ? 4096 : 64) == 0)
        end = start + size
      }
      #expect(end <= arena.base + total)
    }
  }

  @Test func costCoversAnyAlignment() {
    for first in [1, 64, 100, 4095] {
      for second in [1, 4095, 4096, 4097, 8192] {
        withArena(Arena.cost(first) + Arena.cost(second)) { arena in
          _ = arena.take(first)
          _ = arena.take(second)
        }
      }
    }
  }

  @Test func takingMoreThanThereIsStops() async {
    await #expect(processExitsWith: .failure) {
      withArena(8192) { arena in
        _ = arena.take(4096)
        _ = arena.take(4097)
      }
    }
  }
}
