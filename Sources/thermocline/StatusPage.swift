import Administration
import Configuration

/// A status report as a page for people: amounts rounded, columns aligned, nothing that is zero
/// made to look like a finding.
enum StatusPage {
  static func text(_ report: StatusReport) -> String {
    var lines = head(report) + [""]
    lines += table(
      [["tier", "device", "state", "used", "capacity", "full", "errors (read write checksum)"]]
        + report.tiers.flatMap(rows))
    lines += [""] + activity(report)
    return lines.joined(separator: "\n")
  }

  private static func head(_ report: StatusReport) -> [String] {
    let server = report.server
    let volume = report.volume
    let people = server.connections == 1 ? "1 connection" : "\(server.connections) connections"
    return [
      "\(volume.name): \(size(volume.sizeBytes)), \(size(volume.mappedBytes)) of it mapped",
      "served by process \(server.pid) for \(ProgressLine.duration(server.uptimeSeconds)), "
        + "\(people)",
    ] + server.uris.map { "  \($0)" }
  }

  /// A row for the tier as a whole, then one for each device.
  private static func rows(_ tier: StatusReport.Tier) -> [[String]] {
    let full = tier.capacityBytes == 0 ? 0 : tier.usedBytes * 100 / tier.capacityBytes
    let head = [
      "\(tier.index) \(tier.name)", "", "", size(tier.usedBytes), size(tier.capacityBytes),
      "\(full) %",
    ]
    return [head]
      + tier.devices.map { device in
        let errors = [device.readErrors, device.writeErrors, device.checksumErrors]
        let isClean = errors.allSatisfy { $0 == 0 }
        return [
          "", device.path, device.state, "", "", "",
          isClean ? "none" : errors.map(String.init).joined(separator: " "),
        ]
      }
  }

  private static func activity(_ report: StatusReport) -> [String] {
    let io = report.io
    let tiers = report.tiers.map { tier in
      "\(size(io.served.tierBytes[tier.name] ?? 0)) from \(tier.name)"
    }
    let served = ["\(size(io.served.logBytes)) from the log"] + tiers
      + ["\(size(io.served.zeroBytes)) as zeros"]
    let log = report.log
    let moves = report.rebalance
    return [
      "read       \(size(io.readBytes)) in \(io.readOps) requests: "
        + served.joined(separator: ", "),
      "written    \(size(io.writeBytes)) in \(io.writeOps) requests, \(io.flushOps) flushes, "
        + "\(io.trimOps) trims; \(size(log.placedBytes)) of it placed",
      "log        \(size(log.usedBytes)) of \(size(log.sizeBytes)); "
        + (log.ringSizeBytes == 0
          ? "no staging ring: writes wait for the device"
          : "staging ring \(size(log.ringUsedBytes)) of \(size(log.ringSizeBytes))"),
      "rebalance  \(size(moves.promotedBytes)) promoted, \(size(moves.demotedBytes)) demoted, "
        + "\(size(moves.pendingBytes)) to do",
      "memory     \(size(report.memory.residentBytes)) resident, "
        + "budget \(size(report.memory.budgetBytes)); clients hold "
        + "\(size(report.memory.clientUsedBytes)) of \(size(report.memory.clientBytes))",
    ]
  }

  private static func size(_ bytes: UInt64) -> String { SizeText.rounded(bytes) }

  /// Left-aligned columns, two blanks apart.
  static func table(_ rows: [[String]]) -> [String] {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in
      rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0
    }
    return rows.map { row in
      var line = ""
      for (column, cell) in row.enumerated() {
        line += cell + String(repeating: " ", count: widths[column] - cell.count + 2)
      }
      while line.last == " " { line.removeLast() }
      return line
    }
  }
}
