import TOMLKit

/// Values of the file, each checked for its form.
extension ConfigurationReader {
  func checkKeys(of table: TOMLTable, at path: String, allowed: [String]) {
    for key in table.keys where !allowed.contains(key) {
      note(
        join(path, key), "one of the keys \(allowed.joined(separator: ", "))",
        "the unknown key \(quoted(key))")
    }
  }

  func table(in root: TOMLTable, _ key: String, isRequired: Bool) -> TOMLTable? {
    guard let value = root[key] else {
      if isRequired { note(key, "a table [\(key)]", "none") }
      return nil
    }
    guard let table = value.table else {
      note(key, "a table [\(key)]", kind(value))
      return nil
    }
    return table
  }

  /// The string at `key`, or nil when there is none (which is no mistake) or it is no string.
  func string(
    in table: TOMLTable, _ key: String, at path: String, example: String
  ) -> String? {
    guard let value = table[key] else { return nil }
    guard let text = value.string else {
      note(join(path, key), "a string such as \(quoted(example))", kind(value))
      return nil
    }
    return text
  }

  /// The truth value at `key`, or nil when there is none (which is no mistake) or it is none.
  func truth(in table: TOMLTable, _ key: String, at path: String) -> Bool? {
    guard let value = table[key] else { return nil }
    if value.bool == nil { note(join(path, key), "true or false", kind(value)) }
    return value.bool
  }

  func path(
    in table: TOMLTable, _ key: String, at path: String, example: String
  ) -> String? {
    guard let text = string(in: table, key, at: path, example: example) else { return nil }
    guard text.hasPrefix("/"), !text.hasSuffix("/") else {
      note(join(path, key), "an absolute path such as \(quoted(example))", quoted(text))
      return nil
    }
    return text
  }

  func name(
    in table: TOMLTable, at path: String, most: Int, example: String
  ) -> String? {
    let key = join(path, "name")
    let form = "a name such as \(quoted(example)): 1 to \(most) "
      + "letters (a to z), digits, '.', '_', '-', the first one a letter or digit"
    guard table["name"] != nil else {
      note(key, form, "nothing")
      return nil
    }
    guard let text = string(in: table, "name", at: path, example: example) else { return nil }
    let isPlain = text.unicodeScalars.allSatisfy { scalar in
      scalar.isASCII
        && (scalar.properties.isAlphabetic || "0123456789._-".unicodeScalars.contains(scalar))
    }
    guard isPlain, let first = text.first, first.isLetter || first.isNumber,
      text.utf8.count <= most
    else {
      note(key, form, quoted(text))
      return nil
    }
    return text
  }

  func size(
    in table: TOMLTable, _ key: String, at path: String, least: UInt64, example: String
  ) -> UInt64? {
    let key = (name: key, path: join(path, key))
    let form = "a size in KiB, MiB, GiB or TiB such as \(quoted(example))"
    guard let value = table[key.name] else {
      note(key.path, form, "nothing")
      return nil
    }
    guard let text = value.string else {
      note(key.path, form, kind(value))
      return nil
    }
    do throws(SizeText.Problem) {
      let bytes = try SizeText.parse(text)
      if bytes < least {
        note(key.path, "at least \(SizeText.exact(least))", quoted(text))
      } else if bytes % 4096 != 0 {
        note(key.path, "a multiple of 4KiB", quoted(text))
      }
      return bytes
    } catch {
      switch error {
      case .form: note(key.path, form, quoted(text))
      case .overflow: note(key.path, "a size below 8388608TiB", quoted(text))
      }
      return nil
    }
  }

  func join(_ path: String, _ key: String) -> String {
    path.isEmpty ? key : "\(path).\(key)"
  }

  func quoted(_ text: String) -> String {
    "\"" + text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? "?" : "\($0)" }.joined()
      + "\""
  }

  func kind(_ value: any TOMLValueConvertible) -> String {
    switch value.type {
    case .table: "a table"
    case .array: "an array"
    case .string: quoted(value.string ?? "")
    case .int: "the integer \(value.int ?? 0)"
    case .double: "the number \(value.double ?? 0)"
    case .bool: "the truth value \(value.bool ?? false)"
    case .date, .time, .dateTime: "a date or a time"
    }
  }
}
