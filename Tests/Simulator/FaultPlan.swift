/// What may go wrong with devices, in chances per thousand operations. Most seeds have none.
struct FaultPlan: Sendable {
  var readErrors = 0
  var writeErrors = 0
  var flushErrors = 0
  /// A read error that stays with its sectors until they are written.
  var latentErrors = 0
  /// A completed write that had no effect.
  var lostWrites = 0
  /// A completed write that went to another place.
  var misdirectedWrites = 0
  /// Per turn: a sector with data, table or anything but log and superblock rots.
  var rot = 0
  /// Per crash: rot strikes one copy of the superblock.
  var superblockRot = 0
  /// Per crash: rot strikes the log.
  var logRot = 0
  /// How many faults there may be in all; then the devices are good.
  var budget = 0

  init() {}

  /// Nothing goes wrong but crashes: everything must succeed.
  var isEmpty: Bool { budget == 0 }
  /// Errors come and go, and no data is damaged: after they end, everything must be there.
  var onlyErrors: Bool {
    latentErrors + lostWrites + misdirectedWrites + rot + superblockRot + logRot == 0
  }
  /// Nothing is lost for good: a sector that stays unreadable takes the only copy with it.
  var losesNothing: Bool { onlyErrors && latentErrors == 0 }
  /// What nobody can notice in every case: an acknowledged tail may vanish with a crash.
  var isHostile: Bool { lostWrites + misdirectedWrites + logRot > 0 }
}

/// How a crash ends a process.
enum Crash: Sendable {
  /// The process dies; the machine goes on, and with it what the kernel has.
  case kill
  /// The machine dies.
  case power
}
