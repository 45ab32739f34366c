package import DiskFormat
import Base

/// How `memory` in the configuration is spent. All of it is allocated at start.
package struct MemoryPlan: Sendable, Equatable {
  /// Bytes of the staging ring, a power of two (on tmpfs, outside of the arena, but in the budget).
  package var ringBytes: Int
  /// Bytes for client buffers: the server's buffer pool takes them from the arena.
  package var clientBytes: Int
  /// Bytes for the policy's heat map, outside of the arena.
  package var heatBytes: Int
  /// Bytes of the log that the batch reads at a time; it has two such buffers.
  package var unitBytes: Int
  /// Bytes for cached pages.
  package var cacheBytes: Int
  /// Bytes the engine takes from the arena, cached pages included.
  package var engineBytes: Int
  /// What the arena must hold: engine and clients.
  package var arenaBytes: Int { engineBytes + clientBytes + (1 << 20) }

  /// A plan with given parts, for tests and the simulator.
  package init(
    ringBytes: Int, clientBytes: Int, heatBytes: Int, unitBytes: Int, cacheBytes: Int,
    superblock: Superblock
  ) {
    self.unitBytes = unitBytes
    self.ringBytes = ringBytes
    self.clientBytes = clientBytes
    self.heatBytes = heatBytes
    self.cacheBytes = cacheBytes
    engineBytes =
      MemoryPlan.fixedBytes(superblock, unitBytes: unitBytes)
      + PageCache.bytes(frameCount: cacheBytes / Layout.metadataBlock)
  }

  /// What the engine needs but for cached pages: it follows from the pool alone.
  static func fixedBytes(_ superblock: Superblock, unitBytes: Int) -> Int {
    Log.bytes(superblock.log) + Allocator.bytes(superblock)
      + Batch.bytes(superblock.log, unitBytes: unitBytes) + Pools.bytes
      + Placed.bytes(superblock.log)
  }

  /// Cuts `budget` bytes up for a pool; refuses, with the sum, when they do not suffice. `clients`
  /// of them are for connections, unless it is nil.
  package static func plan(
    budget: Int, superblock: Superblock, clients: Int? = nil
  ) throws(MemoryPlanError) -> MemoryPlan {
    var ring = 1 << 20
    while ring * 2 <= min(64 << 20, budget / 8) { ring *= 2 }
    let clients = clients ?? min(64 << 20, budget / 8)
    let heat = budget / 16
    var unit = 1 << 20
    while unit * 2 <= min(16 << 20, budget / 32) { unit *= 2 }
    let fixed = fixedBytes(superblock, unitBytes: unit)
    let process = 24 << 20
    let least = 2 << 20
    let needed = ring + clients + heat + fixed + process + least
    func mib(_ n: Int) -> String { "\((n + 1 << 20 - 1) >> 20) MiB" }
    guard needed <= budget else {
      throw MemoryPlanError(
        message: "memory of \(mib(budget)) does not suffice: staging ring \(mib(ring)), clients "
          + "\(mib(clients)), heat \(mib(heat)), index, bitmaps and buffers for this pool "
          + "\(mib(fixed)), process \(mib(process)), at least \(mib(least)) of cached pages: "
          + "\(mib(needed)) in all. Raise `memory`, or format with a smaller log.")
    }
    let pool = superblock.devices.reduce(0) { $0 + Int(clamping: $1.slotCount) }
    let pages = pool / Page.recordsPerPage * 5 / 4 + 4096
    let cache = min(budget - needed + least, pages * (Layout.metadataBlock + 128))
    return MemoryPlan(
      ringBytes: ring, clientBytes: clients, heatBytes: heat, unitBytes: unit,
      cacheBytes: cache / 10 * 9, superblock: superblock)
  }
}

/// The configured memory does not suffice; `message` shows the sum and what to do.
package struct MemoryPlanError: Error, Sendable {
  package let message: String
}
