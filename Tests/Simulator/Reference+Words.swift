/// What a wrong answer is reported with.
extension Reference {
  func place(_ cell: Int) -> String {
    let offset = layout.offset(cell)
    return "offset \(offset) (block \(offset >> 12), bytes \(offset & 4095) to "
      + "\(Int(offset & 4095) + layout.length(cell) - 1))"
  }

  func wrong(cell: Int, issued: UInt32, bytes: UnsafeRawPointer) -> Failure {
    let origin = content.origin(
      bytes, offset: layout.offset(cell), length: layout.length(cell))
    return Failure(
      "A read returned \(origin) at \(place(cell)); admissible: "
        + describe(cell, issued: issued))
  }

  func describe(_ cell: Int, issued: UInt32) -> String {
    var parts: [String] = []
    var at = heads[cell]
    while at != 0 && parts.count < 12 {
      let node = nodes[Int(at)]
      let v = versions[Int(node.version)]
      let state = v.isOpen ? "open" : (v.isDone ? "until \(v.end)" : "failed at \(v.end)")
      let secured = isSecured(Int(node.version)) ? ", secured" : ""
      let dropped =
        node.dropped == .max
        ? "" : (node.dropped > issued ? ", dropped since" : ", NOT admissible any more")
      parts.append(
        "version \(node.version)\(v.isZero ? " (zeros)" : "") "
          + "from \(v.issue) \(state)\(secured)\(dropped)")
      at = node.next
    }
    return parts.joined(separator: "; ") + "; read issued at \(issued)."
  }
}
