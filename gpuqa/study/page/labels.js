// Names beside the dots: the most important first, each where it covers neither a dot nor another name, or not at all.
function labelsOf(points, frame) {
  const size = frame.width < 600 ? 11 : 12;
  const taken = points.map(({x, y}) => ({x: frame.x(x) - 9, y: frame.y(y) - 9, width: 18, height: 18}));
  const weight = ({cell, front}) =>
    ["winner", "finalist"].indexOf(cell.status) + 1 || (front ? 3 : cell.status === "eligible" ? 4 : 5);
  const labels = [];
  for (const point of [...points].sort((a, b) => weight(a) - weight(b))) {
    const width = widthOf(nameOf(point.cell), size) + 4,
      place = freePlace(point, width, size + 3, taken, frame);
    if (!place) continue;
    taken.push(place);
    labels.push(
      svg("text", {class: "label", x: place.x + 2, y: place.y + size, style: `font-size: ${size}px`}, nameOf(point.cell)),
    );
  }
  return labels;
}

function freePlace(point, width, height, taken, frame) {
  const x = frame.x(point.x),
    y = frame.y(point.y),
    meets = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
  const spots = [12, 22].flatMap((away) => [
    [x + away, y - height / 2],
    [x - away - width, y - height / 2],
    [x - width / 2, y - away - height + 2],
    [x - width / 2, y + away - 2],
    [x + away * 0.7, y - away - height / 2],
    [x - away * 0.7 - width, y - away - height / 2],
    [x + away * 0.7, y + away - height / 2],
    [x - away * 0.7 - width, y + away - height / 2],
  ]);
  return spots
    .map(([left, top]) => ({x: left, y: top, width, height}))
    .find(
      (spot) =>
        spot.x >= frame.left &&
        spot.x + width <= frame.width - 2 &&
        spot.y >= frame.top &&
        spot.y + height <= frame.height - frame.bottom &&
        !taken.some((other) => meets(spot, other)),
    );
}
