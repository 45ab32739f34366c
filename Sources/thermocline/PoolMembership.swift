package import Base
package import DiskFormat

/// Whether the devices that the configuration names are one whole pool, in its order: nothing
/// foreign, swapped, cut short, doubled or missing. Pure, so that every refusal can be tested.
package enum PoolMembership {
  /// What was found where a device's two labels should be.
  package enum Finding: Equatable {
    case label(Label)
    /// One of the two copies could not be read or is not valid.
    case oneCopy(Label)
    case none
    case damaged
    case unreadable(reason: String)
  }

  /// A device as the configuration names it, in the configuration's order, and what it carries.
  package struct Candidate {
    package var path: String
    package var tier: Int
    /// Bytes it has now.
    package var size: UInt64
    package var finding: Finding

    package init(path: String, tier: Int, size: UInt64, finding: Finding) {
      self.path = path
      self.tier = tier
      self.size = size
      self.finding = finding
    }

    var label: Label? {
      switch finding {
      case .label(let label), .oneCopy(let label): label
      case .none, .damaged, .unreadable: nil
      }
    }
  }

  package struct Verdict: Equatable {
    /// Why the pool is refused: complete sentences, each naming a device. Empty when it is whole.
    package var refusals: [String] = []
    /// What was survived and should be known.
    package var notes: [String] = []
    package var pool: Identity?
  }

  /// Decides which of the candidates are the pool's devices, and notes what is odd about the rest.
  package static func judge(_ candidates: [Candidate]) -> Verdict {
    var verdict = Verdict()
    let pool = prevailingPool(candidates)
    verdict.pool = pool
    for (index, candidate) in candidates.enumerated() {
      judgeFinding(candidate, into: &verdict)
      guard let label = candidate.label, let pool else { continue }
      if label.pool != pool {
        let others = candidates.filter { $0.label?.pool == pool }.map(\.path)
        verdict.refusals.append(
          "\(candidate.path) belongs to another pool (\(label.pool)) than "
            + "\(others.joined(separator: ", ")) (\(pool)).")
      } else {
        judgePlace(candidate, label, index, candidates, into: &verdict)
      }
    }
    judgeCount(candidates, pool, into: &verdict)
    return verdict
  }

  private static func judgeFinding(_ candidate: Candidate, into verdict: inout Verdict) {
    switch candidate.finding {
    case .label: break
    case .oneCopy:
      verdict.notes.append("\(candidate.path): one of the two copies of its label is damaged.")
    case .none:
      verdict.refusals.append("\(candidate.path) carries no pool: it has no label of Thermocline.")
    case .damaged:
      verdict.refusals.append("\(candidate.path): both copies of its label are damaged.")
    case .unreadable(let reason):
      verdict.refusals.append("\(candidate.path): its label cannot be read: \(reason).")
    }
  }

  private static func judgePlace(
    _ candidate: Candidate, _ label: Label, _ index: Int, _ all: [Candidate],
    into verdict: inout Verdict
  ) {
    if let twin = all[..<index].first(where: { $0.label?.device == label.device }) {
      verdict.refusals.append("\(candidate.path) is a copy of \(twin.path): give one of them.")
    } else if label.index.index != index || label.tier.index != candidate.tier {
      verdict.refusals.append(
        "\(candidate.path) is swapped: it is device \(label.index.rawValue) of the pool, in tier "
          + "\(label.tier.rawValue); the configuration has it as device \(index), in tier "
          + "\(candidate.tier).")
    }
    if candidate.size < label.size {
      verdict.refusals.append(
        "\(candidate.path) is truncated: it has \(candidate.size) bytes, and had \(label.size) "
          + "when it was formatted.")
    }
  }

  private static func judgeCount(
    _ candidates: [Candidate], _ pool: Identity?, into verdict: inout Verdict
  ) {
    let members = candidates.compactMap(\.label).filter { $0.pool == pool }
    guard let first = members.first, Int(first.deviceCount) > candidates.count else { return }
    let missing = (0..<Int(first.deviceCount)).filter { index in
      !members.contains { $0.index.index == index }
    }
    verdict.refusals.append(
      "The pool \(first.pool) has \(first.deviceCount) devices, the configuration names "
        + "\(candidates.count): device \(missing.map(String.init).joined(separator: ", ")) is "
        + "missing.")
  }

  /// The pool that most of the devices say they are of; among equals that of the first device.
  private static func prevailingPool(_ candidates: [Candidate]) -> Identity? {
    let pools = candidates.compactMap { $0.label?.pool }
    var best: (pool: Identity, count: Int)?
    for pool in pools {
      let count = pools.count { $0 == pool }
      if count > best?.count ?? 0 { best = (pool, count) }
    }
    return best?.pool
  }
}
