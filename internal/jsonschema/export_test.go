package jsonschema

// FuelUsed reports what Validate spent on msg.
func (s *Schema) FuelUsed(msg []byte) (int, error) {
	used := 0
	if err := s.validate(msg, &used); err != nil {
		return used, err
	}
	return used, nil
}

// Formats lists the format names that a schema may use.
func Formats() []string { return sortedNames(formats) }
